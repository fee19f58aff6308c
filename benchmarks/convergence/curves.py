"""The raw result of one run: accuracy at each evaluated version and what it had cost until then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

from fwdllm_server.tasks.class_scores import ClassificationScores


@dataclass(frozen=True)
class Point:
    """A version of the model, its accuracy (0 to 1) and loss on the curve's rows, and all devices' cost so far.

    ``device_seconds`` and ``seconds`` are the simulated fleet's; ``cpu_seconds`` were measured on the machine that ran
    the benchmark, the evaluations included, None where they were not.
    """

    version: int
    accuracy: float
    loss: float
    example_passes: float
    directions: int = 0
    device_seconds: float = 0.0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    cpu_seconds: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any], cpu_seconds: float | None = None) -> Point:
        """From a mapping that may hold more."""
        known = {name: values[name] for name in (item.name for item in fields(cls)) if name in values}
        return cls(**{"cpu_seconds": cpu_seconds, **known})


@dataclass(frozen=True)
class Final:
    """The last version on all test rows. Curves of before they were measured have no macro F1 and no correlation."""

    accuracy: float
    loss: float
    rows: int
    macro_f1: float | None = None
    matthews_correlation: float | None = None

    @classmethod
    def of(cls, labels: Sequence[str], truth: Sequence[int], probabilities: Sequence[Sequence[float]]) -> Final:
        """Compare ``probabilities`` ``[rows, labels]`` with ``truth`` ``[rows]``, indices of the right ``labels``."""
        scores = ClassificationScores.of(labels, truth, probabilities)
        return cls(scores.accuracy, scores.loss, scores.rows, scores.macro_f1, scores.matthews_correlation)


@dataclass(frozen=True)
class Spent:
    """What an accuracy cost; not ``reached``: so much was spent without it, a lower bound."""

    value: float
    reached: bool


Cost = Callable[[Point], float]


def example_passes(point: Point) -> float:
    """Return the cost by which methods are compared: example-passes of all devices."""
    return point.example_passes


@dataclass(frozen=True)
class Curve:
    """One run of one method; ``final`` is there when it is ``complete``.

    ``note`` says why it cannot be completed, if so; ``made`` how and from what it was made.
    """

    task: str
    method: str
    population: str
    seed: int
    devices: int
    rounds: int
    complete: bool
    points: Sequence[Point]
    final: Final | None = None
    note: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the run, and of its file."""
        return f"{self.task}.{self.method}.{self.population}.{self.seed}"

    @property
    def last(self) -> Point:
        """Where it is."""
        return self.points[-1]

    @property
    def best(self) -> Point:
        """The first of its points with the highest accuracy."""
        return max(self.points, key=lambda point: point.accuracy)

    @property
    def largest_fall(self) -> float:
        """How far the accuracy was below its best until then, at worst."""
        best = accumulate((point.accuracy for point in self.points), max)
        return max(high - point.accuracy for high, point in zip(best, self.points, strict=True))

    @property
    def bytes_per_device(self) -> float:
        """Up and down, the model's files excepted, the mean over the population."""
        return (self.last.bytes_up + self.last.bytes_down) / self.devices

    def until(self, target: float, cost: Cost = example_passes) -> Spent:
        """Return what was spent up to the first evaluated point at or above ``target``.

        Between the point before it and itself accuracy counts as linear in the cost. That the curve may fall below the
        target again later does not matter.
        """
        before: Point | None = None
        for point in self.points:
            if point.accuracy >= target:
                if before is None:
                    return Spent(cost(point), reached=True)
                part = (target - before.accuracy) / (point.accuracy - before.accuracy)
                return Spent(cost(before) + part * (cost(point) - cost(before)), reached=True)
            before = point
        return Spent(cost(self.last), reached=False)

    def save(self, path: Path) -> None:
        """Write it as JSON, a point a line."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "points"}
        values["final"] = asdict(self.final) if self.final else None
        head = json.dumps(values, indent=1, ensure_ascii=False).removesuffix("\n}")
        points = ",\n".join(f"  {json.dumps(asdict(point))}" for point in self.points)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(f'{head},\n "points": [\n{points}\n ]\n}}\n', encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Curve:
        """Read a curve that :meth:`save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        values["points"] = tuple(Point.of(point) for point in values["points"])
        values["final"] = Final(**values["final"]) if values["final"] else None
        return cls(**values)


def keep_further(curve: Curve, folder: Path) -> bool:
    """Save ``curve`` in ``folder``, unless the same recipe has got further there; says whether it was saved."""
    path = folder / f"{curve.name}.json"
    if path.exists():
        kept = Curve.load(path)
        same = kept.made.get("recipe") == curve.made.get("recipe")
        if same and (kept.complete, kept.last.example_passes) > (curve.complete, curve.last.example_passes):
            return False
    folder.mkdir(parents=True, exist_ok=True)
    curve.save(path)
    return True


def load_all(folder: Path) -> list[Curve]:
    """Every curve in a folder of results, by name."""
    return [Curve.load(path) for path in sorted(folder.glob("*.json"))]
