"""Reading of small files in /sys and /proc. A file that is missing, unreadable or invalid gives None."""

from __future__ import annotations

from math import isfinite
from pathlib import Path


def text_of(path: Path) -> str | None:
    """Read a file's text without surrounding space; None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> float | None:
    """Read the number in a file; None if it cannot be read or is not a finite number."""
    try:
        number = float(text_of(path) or "")
    except ValueError:
        return None
    return number if isfinite(number) else None


def names_in(folder: Path) -> list[str] | None:
    """List the names in a folder, sorted; empty if it does not exist, None if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError:
        return None
