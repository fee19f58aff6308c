"""The learning curve of a simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fwdllm_common.files import write_atomically
from fwdllm_server.simulation.store import SimulationStore

_FACT = "curve"


@dataclass(frozen=True)
class Point:
    """Where a run is at an evaluated version: accuracy (0 to 1) and loss, and what it has cost all devices together.

    Of question answering, which alone has ``exact_match`` (0 to 1), the accuracy is the mean F1.
    ``example_passes`` are rows × forward passes, ``device_seconds`` of computing and ``seconds`` of the run are
    simulated, ``bytes_up`` and ``bytes_down`` without the model itself.
    """

    version: int
    accuracy: float
    loss: float
    directions: int
    example_passes: float
    device_seconds: float
    seconds: float
    bytes_up: int
    bytes_down: int
    exact_match: float | None = None

    @property
    def metric(self) -> str:
        """What ``accuracy`` is."""
        return "accuracy" if self.exact_match is None else "F1"


class Curve:
    """The points so far, in the store, and for others to read in ``file``, which is never ahead of it."""

    def __init__(self, store: SimulationStore, file: Path) -> None:
        self._store = store
        self._file = file
        self._points = [Point(**point) for point in json.loads(store.fact(_FACT) or b"[]")]

    @property
    def points(self) -> Sequence[Point]:
        """By ascending version."""
        return self._points

    @property
    def version(self) -> int:
        """The newest version that was evaluated, -1 before the first."""
        return self._points[-1].version if self._points else -1

    def add(self, point: Point) -> None:
        """Add a point, which lasts from the store's next checkpoint on."""
        self._points.append(point)
        self._store.keep(_FACT, self._json())

    def publish(self) -> None:
        """Write the file anew; what is in it is in the store.

        :raises StorageError: the disk is full.
        """
        if not self._file.exists() or self._file.read_bytes() != self._json():
            write_atomically(self._file, self._json())

    def _json(self) -> bytes:
        return json.dumps([asdict(point) for point in self._points], indent=0).encode()
