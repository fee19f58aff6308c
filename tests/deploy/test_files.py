"""What is deployed is checked by the tools of those who run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = [*REPOSITORY.glob("deploy/**/*.sh"), *(path for path in REPOSITORY.glob(".ci/*") if path.suffix != ".py")]
UNITS = list(REPOSITORY.glob("deploy/systemd/*.service"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    result = run(str(Path(sys.executable).with_name("shellcheck")), str(script))
    assert result.returncode == 0, result.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_valid_and_confined(unit: Path, tmp_path: Path) -> None:
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text().replace("/opt/fwdllm/bin/", f"{tmp_path}/"))
    for program in ("fwdllm-client", "fwdllm-server"):
        (tmp_path / program).touch(mode=0o755)
    verified = run("systemd-analyze", "verify", str(installed))
    assert (verified.returncode, verified.stderr) == (0, "")
    # Exposure in tenths: 20 is what systemd calls "OK", far from the 96 of a service that confines nothing.
    confined = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed))
    assert confined.returncode == 0, confined.stdout
