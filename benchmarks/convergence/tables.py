"""The tables of the report, as Markdown that also reads well in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean

from benchmarks.convergence.curves import Cost, Curve, Final, Spent, example_passes
from benchmarks.convergence.figures import PAPER, Curves, final_accuracy, progress, until
from benchmarks.convergence.methods import ABLATIONS, HEADLINE, METHODS, REFERENCES
from benchmarks.convergence.tasks import TASKS, Task
from benchmarks.markdown import table
from benchmarks.reporting import Figure

Stale = Callable[[Curve], bool]

_NONE = "–"
_RACE = ("default", "mezo", *PAPER)


def figures_table(figures: Sequence[Figure]) -> list[str]:
    """Return the table of the figures, line by line."""
    rows = []
    for figure in figures:
        bound = {"at least": "≥ ", "at most": "≤ "}.get(figure.get("bound", ""), "")
        value = _NONE if figure["value"] is None else f"{bound}{figure['value']:,g}"
        if "range" in figure and figure.get("seeds", 1) > 1:
            value += " ({:,g} to {:,g})".format(*figure["range"])
        goal = _NONE
        if figure["goal"] is not None:
            goal = f"{'≥' if figure['better'] == 'higher' else '≤'} {figure['goal']:g}"
        rows.append([f"`{figure['name']}`", value, goal, figure.get("note", "")])
    return table(["figure", "value (range over seeds)", "goal", "note"], rows)


def task_table(task: Task, curves: Curves, stale: Stale) -> list[str]:
    """Every headline method and reference that has a curve on the task, devices alike."""
    targets = list(task.targets)
    best = [max(curve.best.accuracy for curve in found) for name in _RACE if (found := curves.of(task.name, name))]
    if len(best) == len(_RACE) and (common := math.floor(min(best) * 1000) / 1000) not in targets:
        targets.append(common)
    header = ["method", "seeds", *(f"passes to {target:.1%}" for target in targets)]
    header += [
        "final accuracy",
        "macro F1",
        "Matthews",
        "best on the curve",
        "rounds",
        "kB per device",
        "CPU s",
        "state",
    ]
    rows = []
    for method in (*HEADLINE, *REFERENCES):
        found = curves.of(task.name, method.name)
        if found:
            passes = [_spent(found, target, example_passes) for target in targets]
            rows.append([f"`{method.name}`", str(len(found)), *passes, *_outcome(found), _state(found, stale)])
    return table(header, rows) if rows else ["No curve yet."]


def non_iid_table(curves: Curves, stale: Stale) -> list[str]:
    """Devices that differ beside devices alike: passes to the task's targets and the final accuracy."""
    rows = []
    for task, method in ((task, method) for task in TASKS.values() for method in METHODS):
        own = [curve for curve in curves.all if (curve.task, curve.method) == (task.name, method)]
        populations = dict.fromkeys(curve.population for curve in own)
        if populations.keys() <= {"iid"}:
            continue
        for target in task.targets:
            alike = until(curves.of(task.name, method), target)
            for population in sorted(populations, key=lambda name: (name != "iid", name)):
                found = curves.of(task.name, method, population)
                slowdown = _slowdown(until(found, target), alike) if population != "iid" else "1"
                passes = _spent(found, target, example_passes)
                row = [task.title, f"`{method}`", f"{target:.0%}", population, passes, slowdown]
                rows.append([*row, _final(found), _state(found, stale)])
    header = ["task", "method", "accuracy", "devices", "passes to it", "slow-down", "final accuracy", "state"]
    return table(header, rows) if rows else ["No curve yet."]


def ablation_table(curves: Curves, stale: Stale) -> list[str]:
    """Return the table of the paper's recipe, each change alone, all together, and each taken out."""
    task = curves.main
    rows = []
    for method in (*(METHODS[name] for name in (*PAPER, "layer-means-4096")), *ABLATIONS, METHODS["default"]):
        found = curves.of(task.name, method.name)
        if found:
            measured = all(point.cpu_seconds is not None for curve in found for point in curve.points)
            costs: list[str] = [
                _spent(found, task.goal, example_passes),
                _spent(found, task.goal, lambda point: point.cpu_seconds or 0.0) if measured else _NONE,
                _spent(found, task.goal, _kilobytes(found[0].devices)),
            ]
            results = [_final(found), _best(found), _state(found, stale)]
            rows.append([f"`{method.name}`", str(len(found)), *costs, *results])
    goal = f"to {task.goal:.0%}"
    header = ["recipe", "seeds", f"passes {goal}", f"CPU s {goal}", f"kB per device {goal}"]
    return table([*header, "final accuracy", "best on the curve", "state"], rows) if rows else ["No curve yet."]


def _kilobytes(devices: int) -> Cost:
    return lambda point: (point.bytes_up + point.bytes_down) / 1000 / devices


def _outcome(curves: Sequence[Curve]) -> list[str]:
    cpu = [curve.last.cpu_seconds for curve in curves]
    seconds = f"{mean(value for value in cpu if value is not None):,.0f}" if None not in cpu else _NONE
    size = mean(curve.bytes_per_device for curve in curves) / 1000
    scores = [_score(curves, lambda final: final.macro_f1), _score(curves, lambda final: final.matthews_correlation)]
    return [
        _final(curves),
        *scores,
        _best(curves),
        str(max(curve.last.version for curve in curves)),
        f"{size:,.0f}",
        seconds,
    ]


def _final(curves: Sequence[Curve]) -> str:
    accuracy = final_accuracy(curves)
    if accuracy is None:
        return _NONE
    return _percent(accuracy) + _range([f"{curve.final.accuracy * 100:.1f}" for curve in curves if curve.final])


def _score(curves: Sequence[Curve], score: Callable[[Final], float | None]) -> str:
    """Return the mean over seeds of a metric from 0 to 1 of all test rows."""
    values = [score(curve.final) if curve.final else None for curve in curves]
    return _NONE if None in values else f"{mean(value for value in values if value is not None):.3f}"


def _best(curves: Sequence[Curve]) -> str:
    return _percent(mean(curve.best.accuracy for curve in curves))


def _spent(curves: Sequence[Curve], target: float, cost: Cost) -> str:
    """Return the mean and the range, with ``>`` before what was spent without reaching the target."""
    spent = until(curves, target, cost)
    if spent is None:
        return _NONE
    if not spent.reached:
        return f"> {_number(spent.value)}"
    return _number(spent.value) + _range([_number(curve.until(target, cost).value) for curve in curves])


def _slowdown(skewed: Spent | None, alike: Spent | None) -> str:
    if skewed is None or alike is None or not alike.reached or alike.value <= 0:
        return _NONE
    return f"{'' if skewed.reached else '> '}{skewed.value / alike.value:.2f}"


def _state(curves: Sequence[Curve], stale: Stale) -> str:
    notes = [curve.note or (f"incomplete: {progress(curve)}" if not curve.complete else "") for curve in curves]
    notes += ["an older recipe" if stale(curve) else "" for curve in curves]
    return "; ".join(dict.fromkeys(filter(None, notes))) or "complete"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _range(texts: Sequence[str]) -> str:
    """From the lowest to the highest of several numbers as they are printed."""
    if len(texts) < 2:
        return ""
    ordered = sorted(texts, key=lambda text: float(text.replace(",", "")))
    return f" ({ordered[0]}–{ordered[-1]})"


def sections(curves: Curves, figures: Sequence[Figure], stale: Stale, pictures: Mapping[str, str]) -> Iterator[str]:
    """Return the whole report, line by line; ``pictures`` are files by task, as the document names them."""
    yield from ("### Figures", "", *figures_table(figures), "")
    for task in TASKS.values():
        if any((curve.task, curve.population) == (task.name, "iid") for curve in curves.all):
            yield from (f"### {task.title}", "", *task_table(task, curves, stale), "")
            if task.name in pictures:
                yield from (f"![Accuracy against example-passes, {task.title}]({pictures[task.name]})", "")
    yield from ("### Devices that differ", "", *non_iid_table(curves, stale), "")
    yield from (f"### Each change alone, {curves.main.title}", "", *ablation_table(curves, stale))
