"""A Python that has the installed packages and not fwdllm, as people have who are given an adapter."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

_NOT_THERE = """
import importlib.util
# An editable installation leaves a folder of the pages of errors, in which there is no code.
assert not [name for name in ("fwdllm", "fwdllm_common", "fwdllm_client", "fwdllm_server")
            if (found := importlib.util.find_spec(name)) is not None and found.origin is not None]
"""


def run_without_fwdllm(code: str, folder: Path) -> str:
    """What ``code``, run in ``folder``, prints; without ``site`` nothing that is installed for development is found."""
    environment = {
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-S", "-c", _NOT_THERE + code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
