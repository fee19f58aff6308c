"""What a measurement or a compiled file of this device depends on, beside the model."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import onnxruntime

_CPUINFO = Path("/proc/cpuinfo")
# x86 names its model and what it can do by the first two, ARM by the rest; all else in the file changes by the second.
_FIELDS = {"model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part", "CPU revision"}


def processor() -> str:
    """The machine's kinds of cores and what they can do: the same text on every start, and another on other chips."""
    if not _CPUINFO.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = (line.partition(":") for line in _CPUINFO.read_text(errors="replace").splitlines())
    facts = {f"{name.strip()}:{value.strip()}" for name, _, value in lines if name.strip() in _FIELDS}
    return "\n".join([platform.machine(), *sorted(facts)])


def machine_key(*parts: str) -> str:
    """SHA-256 (hex, 32 digits) of ``parts``, ONNX Runtime's version and the processor."""
    text = "\0".join([*parts, onnxruntime.__version__, processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
