"""What a run leaves in its folder while it is under way, and how far it has got by that."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.convergence.curves import Curve, Point

RESULT = "result.json"
"""The whole curve, when the run has ended."""
BEGUN = "begun.json"
"""The curve of a simulated run without points, written when it begins."""
SIMULATION = "simulation"
"""The folder that belongs to the simulator; its ``curve.json`` holds the points so far."""
_CLOCK = "cpu-seconds.json"


def read(folder: Path) -> Curve | None:
    """Read what a run has measured so far; None if it has not begun."""
    if (folder / RESULT).exists():
        return Curve.load(folder / RESULT)
    if not (folder / BEGUN).exists():
        return None
    points = folder / SIMULATION / "curve.json"
    found = json.loads(points.read_bytes()) if points.exists() else []
    return replace(Curve.load(folder / BEGUN), points=points_of(found, Clock(folder)))


class Clock:
    """CPU seconds of a run over all its pieces, by version; what a killed piece did after its last point is lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _CLOCK
        kept = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        self.at: dict[str, float] = kept.get("at", {})
        self._before = float(kept.get("spent", 0))
        self._began = time.process_time()

    def note(self, version: int) -> None:
        """Record the CPU seconds spent when this version has just been evaluated."""
        self.at[str(version)] = round(self._spent(), 2)
        self.save()

    def save(self) -> None:
        """Keep it for the next piece."""
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps({"spent": self._spent(), "at": self.at}))
        unfinished.replace(self._path)

    def _spent(self) -> float:
        return self._before + time.process_time() - self._began


def points_of(found: Sequence[Mapping[str, Any]], clock: Clock) -> tuple[Point, ...]:
    """Return the simulator's points with the CPU seconds that belong to them."""
    return tuple(Point.of(point, clock.at.get(str(point["version"]))) for point in found)
