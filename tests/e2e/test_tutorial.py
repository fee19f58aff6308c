"""docs/tutorial.md, "Two machines": its own commands and job file, one after the other, both machines on loopback."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.federation import PROGRAMS, Federation
from helpers.undemanding import ask_for_nothing

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm_server.cli.calls import operator_service

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
SECTION = PAGE.read_text().partition("## Two machines")[2].partition("\n## ")[0]
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    for line in block.splitlines()
]
# What the preset leaves open is thousands of directions.
SMALL = """
[peft]
rank = 2
layers = [-1]
[blocks.head]
directions = 60
batch_size = 32
learning_rate = 0.1
"""


@pytest.fixture
def folder(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the reader has: a model, rows, and the page's job file; home and ports are the test's own."""
    (job,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "job.toml").write_text(job + SMALL)
    shutil.copytree(workplace / "model", tmp_path / "model")
    shutil.copy(workplace / "held_out.csv", tmp_path)
    shutil.copy(workplace / "device-1.csv", tmp_path / "reviews.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FWDLLM_HOME", str(tmp_path / "home"))
    ask_for_nothing(tmp_path / "home")
    return tmp_path


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_the_tutorial_ends_with_an_adapter(folder: Path) -> None:
    with Federation(folder) as federation:
        token = ""
        for program, *arguments in COMMANDS:
            told = ["localhost" if word == "cloud.example" else token if "…" in word else word for word in arguments]
            if told[0] in ("serve", "run"):
                federation.start(told[0], PROGRAMS / program, *told)
                if told[0] == "serve":
                    with operator_service(Path("fwdllm-server")) as service:
                        service.ListJobs(ListJobsRequest(), timeout=60, wait_for_ready=True)
                continue
            done = subprocess.run(
                [PROGRAMS / program, *told], capture_output=True, text=True, check=False, env=os.environ, timeout=240
            )
            assert done.returncode == 0, (program, told, done.stdout, done.stderr, federation.logs())
            if told[0] == "enroll":
                token = done.stdout.split()[-1]
        assert {path.name for path in (folder / "adapter").iterdir()} >= {"adapter_config.json", "base.json"}
        assert token
