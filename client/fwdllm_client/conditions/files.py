"""The small files of /sys and /proc: anything may be missing, closed or nonsense, and then it is not known."""

from __future__ import annotations

from math import isfinite
from pathlib import Path


def text_of(path: Path) -> str | None:
    """What is in a file, stripped; None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> float | None:
    """The number in a file; None if it cannot be read or is none."""
    try:
        number = float(text_of(path) or "")
    except ValueError:
        return None
    return number if isfinite(number) else None


def names_in(folder: Path) -> list[str] | None:
    """What is in a folder, in order: nothing if it does not exist, None if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError:
        return None
