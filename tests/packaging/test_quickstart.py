"""The quickstart's commands, from the wheel, in an empty folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.documented import blocks, commands
from helpers.installed import run
from helpers.tiny_text import save_tiny_model, write_rows

PAGE = "docs/quickstart.md"
SHORT = {"count": 1, "directions": 32, "max_directions": 32, "batch_size": 16, "first_round": 2}
"""Of the demo's job: one round of few directions, which leaves the upper layers out."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def typed(program: str) -> Sequence[list[str]]:
    """The arguments of the page's commands of a program, in order."""
    return [command.words[1:] for command in commands() if command.page == PAGE and command.program == program]


@pytest.mark.timeout(900)
def test_the_demo_comes_to_an_adapter(beside: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (library,) = (beside / "lib").glob("python*/site-packages")
    text = (library / "fwdllm_server" / "cli" / "demo" / "job.toml").read_text()
    for key, value in SHORT.items():
        text = re.sub(rf"^{key} = .*", f"{key} = {value}", text, flags=re.MULTILINE)
    (tmp_path / "short.toml").write_text(text)
    ((word,),) = [words for words in typed("fwdllm-server") if words[0] == "demo"]
    folder = tmp_path / "empty"
    folder.mkdir()
    program = beside / "bin" / "fwdllm-server"
    said = run(program, word, "--job", tmp_path / "short.toml", folder=folder, environment=environment)

    assert re.search(r"held-out accuracy [\d.]+% before, [\d.]+% after 1 round, ", said)
    assert (folder / "fwdllm-demo" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.timeout(900)
def test_a_reader_s_own_rows(beside: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (job,) = [block.text for block in blocks("toml") if block.page == PAGE]
    (tmp_path / "job.toml").write_text(job)
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "held_out.csv", 40, seed=0)
    write_rows(tmp_path / "reviews.csv", 120, seed=1)
    program = beside / "bin" / "fwdllm-server"
    check, simulate = [words for words in typed("fwdllm-server") if words[0] != "demo"]

    assert "job reviews can start" in run(program, *check, folder=tmp_path, environment=environment)
    said = run(program, *simulate, folder=tmp_path, environment=environment)
    assert "20 rounds committed, 0 abandoned" in said
    assert (tmp_path / "simulated" / "adapter" / "adapter_config.json").is_file()
