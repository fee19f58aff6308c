"""Identification of the processor, on which measurements and compiled files of this device depend."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import onnxruntime

_CPUINFO = Path("/proc/cpuinfo")
# x86 gives its model and features in the first two, ARM in the others; the rest of the file may change at any time.
_FIELDS = {"model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part", "CPU revision"}


def processor() -> str:
    """Describe the kinds of cores and their features; the text is the same at every start and differs between chips."""
    if not _CPUINFO.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = (line.partition(":") for line in _CPUINFO.read_text(errors="replace").splitlines())
    facts = {f"{name.strip()}:{value.strip()}" for name, _, value in lines if name.strip() in _FIELDS}
    return "\n".join([platform.machine(), *sorted(facts)])


def machine_key(*parts: str) -> str:
    """Hash ``parts``, ONNX Runtime's version and the processor (SHA-256, first 32 hex digits)."""
    text = "\0".join([*parts, onnxruntime.__version__, processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
