"""The decoder example's own commands and files, made small: the real SmolLM2, a prompt or a head, scalars alone."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.documented import words_of

REPOSITORY = Path(__file__).parents[2]
PAGE = "examples/decoder/README.md"
TOPICS = {"business", "entertainment", "politics", "sports", "tech"}
SMALL = {
    "max_tokens": "16",
    "layers": "[-1]",
    "count": "2",
    "min_devices": "2",
    "evaluate_every": "1",
    "directions": "8",
    "batch_size": "8",
}


def made_small(job: Path) -> None:
    text, found = re.subn(
        f"^({'|'.join(SMALL)}) = .*$", lambda line: f"{line[1]} = {SMALL[line[1]]}", job.read_text(), flags=re.MULTILINE
    )
    assert found > len(SMALL)
    job.write_text(text)


def run(folder: Path, *command: str | Path) -> str:
    found = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# All in all two minutes of a busy core's time, most of it the export of 30 layers.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["prompt", pytest.param("head", marks=pytest.mark.nightly)])
def test_smollm2_is_tuned(name: str, tmp_path: Path) -> None:
    """By the words that follow a prompt, or with a linear head."""
    prepare = words_of(PAGE, "decoder.prepare")[1:]
    run(tmp_path, sys.executable, *prepare, "--rows", "10", "--held-out", "5")
    folder = tmp_path / "decoder-output"
    rows = csv.DictReader((folder / "train.csv").read_text().splitlines(keepends=True))
    labels = [row["label"] for row in rows]
    assert len(labels) == 10
    assert set(labels) == TOPICS
    made_small(folder / f"{name}.toml")
    program = Path(sys.executable).parent / "fwdllm-server"
    simulate = words_of(PAGE, f"simulate {name}.toml")[1:]
    *points, outcome = map(json.loads, run(folder, program, *simulate, "--devices", "2", "--json").splitlines())

    assert [point["version"] for point in points] == [0, 1, 2]
    # Words that say nothing of the topics would give log 5 or more; after a few of a text's tokens it is near that.
    assert points[0]["loss"] < 3
    assert points[-1]["loss"] != points[0]["loss"]
    assert outcome["rounds_committed"] == 2
    adapter = Path(outcome["adapter"])
    assert (adapter / "adapter_model.safetensors").stat().st_size > 0
    prompt = json.loads((adapter / "config.json").read_bytes())["fwdllm"].get("prompt")
    assert prompt.startswith("{text}") if name == "prompt" else not prompt
