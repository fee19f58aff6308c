"""Format numbers and texts for people."""

from __future__ import annotations

import datetime
from collections.abc import Sequence


def size(count: float) -> str:
    """Format a number of bytes: ``950 B``, ``12.3 kB``, ``1.2 GB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def energy(joules: float) -> str:
    """Format an energy in joules: ``420 J``, ``1.5 Wh``, ``2.3 kWh``."""
    if joules < 1000:
        return f"{joules:.0f} J"
    hours = joules / 3600
    return f"{hours:.{1 if hours < 10 else 0}f} Wh" if hours < 1000 else f"{hours / 1000:.1f} kWh"


def duration(seconds: float) -> str:
    """Format a duration in seconds: ``42s``, ``3m20s``, ``5h07m``, ``3d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def moment(unix_s: int) -> str:
    """Format seconds since 1970 UTC as local date and time, and 0 as ``never``."""
    if unix_s == 0:
        return "never"
    return datetime.datetime.fromtimestamp(unix_s, tz=datetime.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str) -> str:
    """Replace control characters in ``text`` with ``?``, so that text of a device cannot control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def columns(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as lines with aligned columns."""
    table = [list(heading), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )
