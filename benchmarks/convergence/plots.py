"""Accuracy against example-passes, a PNG for each task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import PercentFormatter

from benchmarks.convergence.curves import Curve
from benchmarks.convergence.figures import Curves
from benchmarks.convergence.tasks import TASKS, Task

# Told apart by dashes, markers and lightness, so that print in grey will do.
_STYLES: dict[str, dict[str, object]] = {
    "default": {"color": "#000000", "linestyle": "-", "marker": "o"},
    "layer-means-4096": {"color": "#505050", "linestyle": (0, (5, 2)), "marker": "p"},
    "fwdllm-paper": {"color": "#b03030", "linestyle": "--", "marker": "s"},
    "fwdllm-paper-tuned": {"color": "#d08070", "linestyle": "-.", "marker": "D"},
    "mezo": {"color": "#7a7a7a", "linestyle": ":", "marker": "^"},
    "probe-sgd": {"color": "#a8a8a8", "linestyle": (0, (1, 3)), "marker": "v"},
    "backprop-lora-fedsgd": {"color": "#2060a0", "linestyle": (0, (6, 1)), "marker": "x"},
    "backprop-lora-fedavg": {"color": "#70a0d0", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "+"},
}
_LEVEL = "probe-ridge"
_MARKERS_PER_LINE = 12


def draw_all(curves: Curves, folder: Path) -> dict[str, Path]:
    """One picture for each task with curves of devices alike, by the task's name."""
    drawn = {}
    for task in TASKS.values():
        found = [curve for curve in curves.all if curve.task == task.name and curve.population == "iid"]
        if any(curve.method in _STYLES for curve in found):
            folder.mkdir(parents=True, exist_ok=True)
            drawn[task.name] = folder / f"convergence-{task.name.replace('_', '-')}.png"
            _draw(task, found, drawn[task.name])
    return drawn


def _draw(task: Task, curves: Sequence[Curve], path: Path) -> None:
    drawing = Drawing(figsize=(8, 4.8), layout="constrained")
    axes = drawing.subplots()
    for method, style in _STYLES.items():
        for index, curve in enumerate(curve for curve in curves if curve.method == method):
            _line(axes, curve, style, method if index == 0 else None)
    for curve in (curve for curve in curves if curve.method == _LEVEL):
        axes.axhline(curve.best.accuracy, color="#a8a8a8", linewidth=1, label=_LEVEL)
    axes.set_xscale("log")
    axes.set_xlabel("example-passes of all devices")
    axes.set_ylabel("accuracy on test rows")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.set_title(f"{task.title}: all-MiniLM-L6-v2, a line for each seed", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")

    drawing.savefig(path, dpi=130, metadata={"Software": None})


def _line(axes: Axes, curve: Curve, style: dict[str, object], label: str | None) -> None:
    points = [point for point in curve.points if point.example_passes > 0]  # the axis is logarithmic
    if not points:
        return
    every = max(1, len(points) // _MARKERS_PER_LINE)
    passes, accuracy = [point.example_passes for point in points], [point.accuracy for point in points]
    axes.plot(passes, accuracy, linewidth=1.2, markersize=4, markevery=every, label=label, **style)  # type: ignore[arg-type]
