"""The page on Python, block after block, as its reader runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.documented import blocks

PAGE = "docs/python.md"


@pytest.mark.timeout(600)
def test_the_page_runs_from_its_first_block_to_its_last(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "train.csv", tmp_path / "reviews.csv")
    shutil.copy(place / "held_out.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": PAGE}
    pages = {"docs/python.md"}
    for block in blocks("python"):
        if block.page in pages:
            exec(compile(block.text, str(block), "exec"), names)

    said = capsys.readouterr().out
    assert "[10 rows x 4 columns]" in said or "bytes_up" in said
    assert "2 of 2: " in said
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert (tmp_path / "onnx" / "model.onnx").is_file()
