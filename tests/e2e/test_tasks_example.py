"""The commands of the example of several tasks, made small: the real MiniLM, a few rows and two rounds of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documented import words_of

REPOSITORY = Path(__file__).parents[2]
PAGE = "examples/tasks/README.md"
METRICS = {
    "pairs": ("accuracy", None),
    "values": ("Pearson", "Spearman"),
    "labels": ("micro F1", "macro F1"),
    "words": ("F1", "token accuracy"),
}
pytestmark = pytest.mark.timeout(900)  # half a minute of a busy core's time each, most of it the export


def run(folder: Path, *command: str | Path) -> str:
    found = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tasks")
    run(place, sys.executable, *words_of(PAGE, "tasks.prepare")[1:], "--rows", "48")
    return place / "tasks-output"


@pytest.mark.parametrize("name", METRICS)
def test_a_job_runs(name: str, folder: Path) -> None:
    job = folder / f"{name}.toml"
    job.write_text(
        job.read_text().replace("count = 20", "count = 2").replace("evaluate_every = 5", "evaluate_every = 1")
    )
    program = Path(sys.executable).with_name("fwdllm-server")
    lines = run(folder, program, *words_of(PAGE, f"simulate {name}")[1:], "--json").splitlines()
    *points, outcome = map(json.loads, lines)
    assert [point["version"] for point in points] == [0, 1, 2]
    main, beside = METRICS[name]
    assert {point["metric"] for point in points} == {main}
    if beside:
        assert {point["metric_beside"] for point in points} == {beside}
        assert all(point["exact_match"] is not None for point in points)
    assert points[-1]["loss"] < points[0]["loss"]
    config = json.loads((Path(outcome["adapter"]) / "config.json").read_bytes())
    assert f'task = "{config["fwdllm"]["task"]}"' in job.read_text()
