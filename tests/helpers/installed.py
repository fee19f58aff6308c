"""Run programs of an environment that the tests have made."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


def run(
    *command: str | Path, expect: int = 0, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """What a command prints on standard output; without an environment it has an empty one."""
    # PYTHONPATH, by which developers run these tests on another checkout, would hide what is installed.
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
        env=environment or {},
        cwd=folder,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout
