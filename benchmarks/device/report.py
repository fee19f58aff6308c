"""Tables and figures from what the processes told; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TypeAlias

from benchmarks.device.work import FIRST_START, METHODS
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, rounded

Measurement: TypeAlias = Mapping[str, float]
Results: TypeAlias = Mapping[str, Mapping[str, Sequence[Measurement]]]
"""Repetitions by shape and method."""

TRAINING = (FIRST_START, "derivative-head", "derivative", "derivative-no-cache")
_GB = 1e9
_MB = 1e6
_RSS, _ANONYMOUS, _CPU, _WALL = "peak_rss_bytes", "peak_anonymous_bytes", "cpu_seconds", "seconds"


Accuracies: TypeAlias = Mapping[str, Mapping[str, float]]
"""Of the scalars of shapes with quantised weights, see :func:`benchmarks.device.accuracy.accuracy`."""


def sections(results: Results, titles: Mapping[str, str], accuracies: Accuracies) -> Iterator[str]:
    """Yield a table for each shape, line by line; ``titles`` are the shapes'."""
    for shape, methods in results.items():
        rows = []
        for name, found in methods.items():
            title = "its first start, with tuning" if name == FIRST_START else METHODS[name].title
            memory = [_range(found, field, _MB, "{:,.0f}") for field in (_RSS, _ANONYMOUS)]
            rows.append([title, *memory, *(_range(found, field, 1, "{:.4g}") for field in (_CPU, _WALL))])
        yield from (f"### {titles[shape]}", "")
        header = ["per batch of 8 x 64 tokens", "peak resident MB", "of it anonymous MB", "CPU s", "wall s"]
        yield from (*table(header, rows), "")
        if shape in accuracies:
            numbers = "correlation {correlation:.4f}, relative error {relative_error:.3f}".format(**accuracies[shape])
            yield from (f"Its scalars against those of the same weights in float32: {numbers}.", "")


def all_figures(results: Results, precisions: Mapping[str, str], accuracies: Accuracies) -> list[Figure]:
    """Return the figures with their goals, None where not measured; ``precisions`` are of frozen weights, by shape."""
    memory = {name: _ratio(results, "minilm", name, "inference", _RSS) for name in TRAINING}
    return [
        make_figure("memory_ratio_minilm", _most(memory), "inference's peak resident memory", 1.10)
        | {"by_method": memory, "peer": _backprop(results, "minilm", _RSS)},
        _time_figure("time_ratio_default", "derivative-head", results),
        _time_figure("time_ratio_upper_layers", "derivative", results)
        | {"peer": {"without cache": _no_cache(results), **_backprop(results, "minilm", _CPU)}},
        *(
            _memory_figure(results, shape, goal, precisions) | {"scalars": accuracies.get(shape)}
            for shape, goal in (("roberta_large", 0.53), ("bert_base", 0.25))
        ),
    ]


def _time_figure(name: str, method: str, results: Results) -> Figure:
    """Of what a preset perturbs: ``default`` the head, ``upper-layers`` two layers beside it."""
    ratios = {shape: _ratio(results, shape, method, "inference", _CPU) for shape in results}
    return make_figure(name, _most(ratios), "inferences per directional derivative, worst shape", 0.5) | {
        "by_shape": ratios
    }


def _memory_figure(results: Results, shape: str, goal: float, precisions: Mapping[str, str]) -> Figure:
    """Return the peak of training, the first start included, in which the weights are prepared."""
    resident = {name: _gigabytes(results, shape, _RSS, name) for name in TRAINING}
    anonymous = {name: _gigabytes(results, shape, _ANONYMOUS, name) for name in TRAINING}
    peers = {name: _gigabytes(results, shape, _RSS, name) for name in METHODS if name not in TRAINING}
    found = make_figure(f"rss_gb_{shape}", _most(resident), "GB resident at most", goal)
    return found | {"weights": precisions.get(shape), "by_method": resident, "anonymous_gb": anonymous, "peer": peers}


def _most(values: Mapping[str, float | None]) -> float | None:
    return max((value for value in values.values() if value is not None), default=None)


def _backprop(results: Results, shape: str, field: str) -> dict[str, float | None]:
    """Each kind of backpropagation over inference."""
    names = (name for name in METHODS if name.startswith("torch"))
    return {name: _ratio(results, shape, name, "inference", field) for name in names}


def _no_cache(results: Results) -> dict[str, float | None]:
    return {shape: _ratio(results, shape, "derivative-no-cache", "inference", _CPU) for shape in results}


def _gigabytes(results: Results, shape: str, field: str, method: str) -> float | None:
    value = _median(results, shape, method, field)
    return None if value is None else rounded(value / _GB)


def _ratio(results: Results, shape: str, above: str, below: str, field: str) -> float | None:
    over, under = (_median(results, shape, method, field) for method in (above, below))
    return None if over is None or not under else rounded(over / under)


def _median(results: Results, shape: str, method: str, field: str) -> float | None:
    found = results.get(shape, {}).get(method, ())
    return median(each[field] for each in found) if found else None


def _range(found: Sequence[Measurement], field: str, unit: float, form: str) -> str:
    values = sorted(each[field] / unit for each in found)
    middle = form.format(median(values))
    return middle if len(values) < 2 else f"{middle} ({form.format(values[0])}–{form.format(values[-1])})"
