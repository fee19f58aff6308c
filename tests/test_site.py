"""The documentation as a site, and the pages that are made from the code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {"tutorial", "operations", "protocol", "server-config", "bad-input", "algorithm"} <= pages
    page = (tmp_path / "site" / "algorithm" / "index.html").read_text()
    assert 'src="http' not in page, "a reader needs no network"
    assert 'rel="stylesheet" href="http' not in page


def test_the_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, page in module.pages().items():
        committed = (REPOSITORY / "docs" / "reference" / name).read_text()
        assert committed == page, f"{name} is not current; run 'make reference' and commit"
