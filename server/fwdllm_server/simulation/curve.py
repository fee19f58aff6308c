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
    """An evaluated version: accuracy (0 to 1), loss (nats), and the cost so far of all devices together.

    ``metric`` says what the accuracy is, ``metric_beside`` what ``exact_match`` is; that and ``perplexity`` are given
    where the task has them.
    ``example_passes`` are
    rows × forward passes. ``device_seconds`` is computing time, ``seconds`` the run's duration, both simulated.
    ``bytes_up`` and ``bytes_down`` do not include the model's files.
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
    metric: str = "accuracy"
    perplexity: float | None = None
    metric_beside: str = "exact match"


class Curve:
    """The points so far, in the store and, for readers, in ``file``. The file is never ahead of the store."""

    def __init__(self, store: SimulationStore, file: Path) -> None:
        self._store = store
        self._file = file
        self._points = [Point(**point) for point in json.loads(store.fact(_FACT) or b"[]")]

    @property
    def points(self) -> Sequence[Point]:
        """The points by ascending version."""
        return self._points

    @property
    def version(self) -> int:
        """The newest evaluated version, -1 before the first."""
        return self._points[-1].version if self._points else -1

    def add(self, point: Point) -> None:
        """Add a point. It is durable after the store's next checkpoint."""
        self._points.append(point)
        self._store.keep(_FACT, self._json())

    def publish(self) -> None:
        """Write the points to the file. Call it only after the store's checkpoint.

        :raises StorageError: the disk is full.
        """
        if not self._file.exists() or self._file.read_bytes() != self._json():
            write_atomically(self._file, self._json())

    def _json(self) -> bytes:
        return json.dumps([asdict(point) for point in self._points], indent=0).encode()
