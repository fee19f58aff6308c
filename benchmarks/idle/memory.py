"""Resident memory of a process and its children, by smaps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FIELDS = ("Rss", "Pss", "Anonymous")


def memory_of(pid: int) -> Mapping[str, int]:
    """Bytes that are resident, the process's share of those that others have too, and those that no file is behind."""
    found = dict.fromkeys(FIELDS, 0)
    for process in _family(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] += int(value.split()[0]) * 1024
    return found


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(each for child in children.read_text().split() for each in _family(int(child)))]
