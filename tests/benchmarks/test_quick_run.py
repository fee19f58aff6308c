"""``make bench-convergence QUICK=1`` in part: real model, real text, simulator, references, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def bench(output: Path, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "benchmarks.convergence", "--quick", "--threads", "1", "--output", str(output)]
    done = subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)  # 35 CPU seconds; other work on the machine multiplies them
def test_paused_reported_taken_up_again_and_compared(tmp_path: Path) -> None:
    paused = bench(tmp_path, "--only", "bbc_news/default/iid", "--max-passes", "1")
    assert "bbc_news/default/iid/1: paused at its limit of passes" in paused
    assert "incomplete: stopped at round 1 of 3" in paused

    names = ("bbc_news/default/iid", "bbc_news/probe-ridge", "bbc_news/backprop-lora-fedavg")
    bench(tmp_path, "--only", " ".join(names))
    curves = {path.name: json.loads(path.read_text()) for path in (tmp_path / "report" / "curves").iterdir()}
    assert curves.keys() == {f"{name.replace('/', '.').removesuffix('.iid')}.iid.1.json" for name in names}
    assert all(curve["complete"] and curve["final"]["rows"] == 100 for curve in curves.values())
    default = curves["bbc_news.default.iid.1.json"]
    assert [point["version"] for point in default["points"]] == [0, 1, 2, 3]
    assert default["points"][-1]["loss"] < default["points"][0]["loss"]
    assert default["made"]["command"] == "make bench-convergence QUICK=1 ONLY=bbc_news/default/iid/1"
    assert not (tmp_path / "runs" / "bbc_news.default.iid.1" / "simulation").exists()

    report = bench(tmp_path, "--report")
    assert "| `backprop-lora-fedavg` " in report
    figures = json.loads((tmp_path / "report" / "convergence.json").read_text())["figures"]
    values = {figure["name"]: figure["value"] for figure in figures}
    assert values["final_accuracy_probe"] > 0.8
    assert values["passes_ratio_paper_over_default_85"] is None
    assert (tmp_path / "report" / "images" / "convergence-bbc-news.png").exists()


def test_what_is_asked_for_wrongly_is_said(tmp_path: Path) -> None:
    assert "bbc_news/default/iid/1" in bench(tmp_path, "--list")
    command = [sys.executable, "-m", "benchmarks.convergence", "--only", "nothing", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: no run is called 'nothing'; --list shows them all\n"
