"""Decoders of untrusted bytes, guided by coverage: no crash, no hang, no growth."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

TESTS = Path(__file__).parents[1]
NIGHTLY_RUNS = 120_000
"""Times the weights of the targets."""
QUICK_RUNS = 1_000

pytestmark = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed: Linux on x86-64 only")


def fuzz(name: str, runs: int, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "fuzz.cover", name, str(max(1, round(runs * TARGETS[name].weight)))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", ["manifest", "snapshot", "ledger-entry"])
def test_a_few_seconds_of(name, tmp_path):
    fuzz(name, QUICK_RUNS, tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_night_of(name, tmp_path):
    fuzz(name, NIGHTLY_RUNS, tmp_path)
