"""Describe the machine and software of a profile, on which its seconds depend."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version

_PACKAGES = ("fwdllm", "numpy", "onnxruntime", "torch", "transformers", "peft")


def environment() -> Mapping[str, str]:
    """Return a description of the machine, and the versions of the packages."""
    machine = {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    return machine | {package: version(package) for package in _PACKAGES}
