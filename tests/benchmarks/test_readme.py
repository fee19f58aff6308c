"""README's figures are those of ``benchmarks/results``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.environment import REPOSITORY


def test_readme_is_what_the_generator_writes(tmp_path: Path) -> None:
    committed = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    copy = tmp_path / "README.md"
    copy.write_text(committed, encoding="utf-8")
    readme.write(copy)
    assert copy.read_text(encoding="utf-8") == committed, "README's figures are not current; run 'make figures'"


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="has lost the line"):
        readme.write(copy)


def test_a_report_is_kept_without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"rounds": 3, "adapter_dir": "/somewhere"}))
    readme.keep_demo(report)
    assert json.loads((tmp_path / "demo.json").read_text()) == {"rounds": 3}
