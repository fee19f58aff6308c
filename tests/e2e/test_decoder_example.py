"""The decoder example's own files, made small: the real SmolLM2, a prompt, and scalars alone."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TOPICS = {"business", "entertainment", "politics", "sports", "tech"}
SMALL = {
    "max_tokens": "16",
    "layers": "[-1]",
    "count": "2",
    "min_devices": "2",
    "evaluate_every": "1",
    "directions": "8",
    "batch_size": "2",
}


def made_small(job: Path) -> None:
    text, found = re.subn(
        f"^({'|'.join(SMALL)}) = .*$", lambda line: f"{line[1]} = {SMALL[line[1]]}", job.read_text(), flags=re.MULTILINE
    )
    assert found > len(SMALL)
    job.write_text(text)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# All in all two minutes of a busy core's time, most of it the export of 30 layers.
@pytest.mark.timeout(900)
def test_smollm2_answers_a_prompt_and_is_tuned(tmp_path: Path) -> None:
    run(sys.executable, "-m", "examples.decoder.prepare", tmp_path, "--rows", "10", "--held-out", "5")
    rows = csv.DictReader((tmp_path / "train.csv").read_text().splitlines(keepends=True))
    labels = [row["label"] for row in rows]
    assert len(labels) == 10
    assert set(labels) == TOPICS
    job = tmp_path / "prompt.toml"
    made_small(job)
    program = Path(sys.executable).parent / "fwdllm-server"
    where = ["--data", tmp_path / "train.csv", "--out", tmp_path / "run", "--devices", "2", "--threads", "1"]
    *points, outcome = map(json.loads, run(program, "simulate", job, *where, "--json").splitlines())

    assert [point["version"] for point in points] == [0, 1, 2]
    # Words that say nothing of the topics would give log 5 or more; after a few of a text's tokens it is near that.
    assert points[0]["loss"] < 3
    assert points[-1]["loss"] != points[0]["loss"]
    assert outcome["rounds_committed"] == 2
    adapter = Path(outcome["adapter"])
    assert (adapter / "adapter_model.safetensors").stat().st_size > 0
    assert json.loads((adapter / "base.json").read_bytes())["prompt"].startswith("{text}")
