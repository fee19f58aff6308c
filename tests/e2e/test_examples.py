"""The examples' own commands, on a tiny model."""

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
from helpers.tiny_text import LABELS, write_rows

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # about ten CPU seconds each; other work on the machine multiplies them
PROGRAM = Path(sys.executable).with_name("fwdllm-server")
SMALL_RUN = ("--threads", "1", "--json")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def example(name: str, part: str) -> list[str]:
    """The arguments of the command of an example's page that has ``part`` in it."""
    return words_of(f"examples/{name}/README.md", part)[1:]


def made_small(job: Path, blocks: str = "") -> None:
    """The job without the preset's thousands of directions."""
    job.write_text('preset = "default"\n' + job.read_text() + _BLOCKS + blocks)


_BLOCKS = """
[blocks.head]
directions = 120
batch_size = 32
learning_rate = 0.1
"""


def test_own_data(workplace: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv", 200, seed=5).read_text().replace("text,label", "body,topic")
    (tmp_path / "tickets.csv").write_text(rows)
    (tmp_path / "encoder").symlink_to(workplace / "model")
    said = run(
        tmp_path, sys.executable, *example("own_data", "own_data.prepare"), "--max-tokens", "16", "--rounds", "4"
    )
    assert said.endswith("own-output: 40 rows held out, 160 for devices, 3 labels\n")
    folder = tmp_path / "own-output"
    job = folder / "job.toml"
    assert f"labels = {json.dumps(LABELS)}" in job.read_text()
    made_small(job)
    lines = run(folder, PROGRAM, *example("own_data", "simulate"), *SMALL_RUN).splitlines()
    *points, outcome = map(json.loads, lines)
    assert points[-1]["loss"] != points[0]["loss"]
    assert outcome["rounds_committed"] == 4
    assert (Path(outcome["adapter"]) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("columns", "words"),
    [((), "no column 'text'"), (("--text-column", "body", "--label-column", "x"), "no column 'x'")],
)
def test_own_data_without_its_columns(columns: tuple[str, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("body,topic\n" + "a,b\n" * 30)
    command = [sys.executable, "-m", "examples.own_data.prepare", tmp_path / "tickets.csv", "--model", "m", *columns]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stderr) == (1, True)


def test_sentiment_with_users_as_devices(workplace: Path, tmp_path: Path) -> None:
    small = ("--users", "12", "--model", workplace / "model", "--rounds", "2")
    run(tmp_path, sys.executable, *example("sentiment", "sentiment.prepare"), *small)
    folder = tmp_path / "sentiment-output"
    with (folder / "reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    users = {row["user"] for row in rows}
    assert len(users) == 12
    shares = {user: sum(row["label"] == "positive" for row in rows if row["user"] == user) for user in users}
    assert len(set(shares.values())) > 3, "users differ"
    job = folder / "job.toml"
    job.write_text(re.sub("min_devices = 8", "min_devices = 4", job.read_text()))
    made_small(job)
    lines = run(folder, PROGRAM, *example("sentiment", "simulate"), "--devices", "12", *SMALL_RUN).splitlines()
    assert json.loads(lines[-1])["rounds_committed"] == 2


def test_a_custom_peft_method(workplace: Path, tmp_path: Path) -> None:
    """The package installed where the coordinator finds it; what it trained is an adapter that PEFT knows."""
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", *words_of("examples/custom_peft/README.md", "pip")]
    run(REPOSITORY, *pip, "--quiet", "--no-deps", "--target", installed)
    job = tmp_path / "job.toml"
    text = f"""
[job]
name = "custom"
[model]
source = "{workplace / "model"}"
labels = {list(LABELS)}
max_tokens = 16
pooling = "mean"
[held_out]
file = "{workplace / "held_out.csv"}"
[rounds]
count = 1
min_devices = 1
[blocks.head]
directions = 40
batch_size = 16
learning_rate = 0.1
[blocks.peft]
directions = 8
batch_size = 8
learning_rate = 0.01
"""
    block = re.search(r"```toml\n(.*?)```", (REPOSITORY / "examples/custom_peft/README.md").read_text(), re.DOTALL)
    assert block is not None
    job.write_text(text + block[1])
    command = [PROGRAM, "simulate", job, "--data", workplace / "device-1.csv", "--devices", "2", "--threads", "1"]
    found = {**os.environ, "PYTHONPATH": f"{installed}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [*command, "--out", tmp_path / "out", "--json"], env=found, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    adapter = Path(json.loads(done.stdout.splitlines()[-1])["adapter"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["r"]) == (True, 8)
    without = subprocess.run([*command, "--out", tmp_path / "other"], capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert "there is no method 'rslora' in lora, lora-fa" in without.stderr
