"""The page on Python, block after block, as its reader runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.documented import blocks


@pytest.fixture
def folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the reader has: a model and rows."""
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "train.csv", tmp_path / "reviews.csv")
    shutil.copy(place / "held_out.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page: str) -> None:
    names: dict[str, object] = {"__name__": page}
    for block in blocks("python"):
        if block.page == page:
            exec(compile(block.text, str(block), "exec"), names)


@pytest.mark.timeout(600)
def test_the_page_runs_from_its_first_block_to_its_last(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page("docs/python.md")

    said = capsys.readouterr().out
    assert "bytes_up" in said
    assert "2 of 2: " in said
    assert (folder / "adapter" / "adapter_config.json").is_file()
    assert (folder / "onnx" / "model.onnx").is_file()


@pytest.mark.timeout(600)
def test_the_ten_lines_of_the_first_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page("docs/index.md")

    assert "['sport']" in capsys.readouterr().out
    assert (folder / "adapter" / "adapter_config.json").is_file()
