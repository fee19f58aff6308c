"""The benchmark's figures from the raw curves; what the curves cannot tell yet is a bound or empty, with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from benchmarks.convergence.curves import Cost, Curve, Spent, example_passes
from benchmarks.convergence.tasks import QUICK_TASK, TASKS, Task
from benchmarks.reporting import Figure, make_figure, rounded

PAPER = ("fwdllm-paper", "fwdllm-paper-tuned")
PROBES = ("probe-ridge", "probe-logistic", "probe-sgd")
OWN_PROBE = "probe-ridge-layer-means"
BACKPROP = ("backprop-lora-fedsgd", "backprop-lora-fedavg")
SKEWED = ("dirichlet-1", "dirichlet-0.1")
PUBLISHED_SLOWDOWN = {"name": "FwdLLM as published (its Non-IID figure)", "low": 2.3, "high": 5.4}


@dataclass(frozen=True)
class Curves:
    """All curves; figures speak of ``main`` for efficiency and ``hard`` for what the trunk learns."""

    all: Sequence[Curve]
    main: Task = TASKS["ag_news"]
    hard: Task = TASKS["yelp_sentences"]

    @classmethod
    def quick(cls, curves: Sequence[Curve]) -> Curves:
        """With the one task of a quick run in both roles."""
        return cls(curves, TASKS[QUICK_TASK], TASKS[QUICK_TASK])

    def of(self, task: str, method: str, population: str = "iid") -> list[Curve]:
        """One curve for each seed."""
        wanted = (task, method, population)
        return [curve for curve in self.all if (curve.task, curve.method, curve.population) == wanted]


def until(curves: Sequence[Curve], target: float, cost: Cost = example_passes) -> Spent | None:
    """Return the mean over seeds; a lower bound if one has not reached the target, None without curves."""
    if not curves:
        return None
    found = [curve.until(target, cost) for curve in curves]
    return Spent(mean(spent.value for spent in found), all(spent.reached for spent in found))


def fastest(found: Mapping[str, Spent | None]) -> tuple[str, Spent] | None:
    """Return the run that reached the target with the least passes, by name.

    Where none reached it, return the run with the highest lower bound: its bound holds for that run by name only.
    """
    known = [(name, spent) for name, spent in found.items() if spent is not None]
    reached = [each for each in known if each[1].reached]
    if reached:
        return min(reached, key=lambda each: each[1].value)
    return max(known, key=lambda each: each[1].value, default=None)


def final_accuracy(curves: Sequence[Curve]) -> float | None:
    """Return the mean over seeds on all test rows; None while one is not complete."""
    finals = [curve.final for curve in curves]
    return mean(final.accuracy for final in finals if final) if finals and all(finals) else None


def all_figures(curves: Curves) -> list[Figure]:
    """In the order of the issue."""
    return [
        _passes_ratio(curves, 0.80, goal=None),
        _passes_ratio(curves, 0.85, goal=50),
        _passes_ratio_best(curves),
        _final("final_accuracy_default", curves, ("default",)),
        _final("final_accuracy_probe", curves, PROBES),
        _final("final_accuracy_backprop_lora", curves, BACKPROP),
        _slowdown(curves),
        _gap_closed(curves),
        _below_probe(curves),
        _bytes(curves),
        _fall(curves),
    ]


def _passes_ratio(curves: Curves, target: float, goal: float | None) -> Figure:
    task = curves.main.name
    own = curves.of(task, "default")
    papers = {name: until(curves.of(task, name), target) for name in PAPER}
    name, paper = fastest(papers) or ("the paper's recipe", None)
    figure = make_figure(f"passes_ratio_paper_over_default_{target * 100:.0f}", None, "×", goal, "higher")
    figure |= _ratio(paper, until(own, target), name, "default")
    if paper is not None and paper.reached and own and all(curve.until(target).reached for curve in own):
        figure |= _spread([paper.value / curve.until(target).value for curve in own])
    peers = {name: _spent_of(spent) for name, spent in papers.items() if spent is not None}
    return figure | {"peer": {"name": name, "passes": peers}}


def _passes_ratio_best(curves: Curves) -> Figure:
    """At the highest accuracy of the paper's curves, at whichever rate."""
    figure = make_figure("passes_ratio_paper_over_default_best", None, "×", 10, "higher")
    papers = [curve for name in PAPER for curve in curves.of(curves.main.name, name)]
    if not papers:
        return figure | {"note": "no curve of the paper's recipe yet", "peer": {}}
    paper = max(papers, key=lambda curve: curve.best.accuracy)
    target = paper.best.accuracy
    own = until(curves.of(curves.main.name, "default"), target)
    figure |= _ratio(paper.until(target), own, paper.method, "default")
    unfinished = [curve for curve in papers if not curve.complete]
    if unfinished:
        how_far = ", ".join(f"{curve.method} {progress(curve)}" for curve in unfinished)
        note = f"the paper's best so far: {how_far}"
        figure["note"] = "; ".join(filter(None, (figure.get("note"), note)))
    return figure | {"peer": {"name": paper.method, "accuracy": target, "passes": _spent_of(paper.until(target))}}


def _final(name: str, curves: Curves, methods: Sequence[str]) -> Figure:
    """Return the best of the methods that are complete."""
    figure = make_figure(name, None, "fraction of test rows", None, "higher")
    found = {method: final_accuracy(curves.of(curves.main.name, method)) for method in methods}
    peers = {method: value for method, value in found.items() if value is not None}
    if not peers:
        return figure | {"note": "not complete yet", "peer": {}}
    best = max(peers, key=lambda method: peers[method])
    finals = [curve.final.accuracy for curve in curves.of(curves.main.name, best) if curve.final]
    figure |= {"value": rounded(peers[best]), **_spread(finals)}
    return figure | {"peer": {method: rounded(value) for method, value in peers.items() if len(methods) > 1}}


def _slowdown(curves: Curves) -> Figure:
    """Return the worse of both skews."""
    figure = make_figure("noniid_slowdown_default", None, "×", 1.5, "lower") | {"peer": PUBLISHED_SLOWDOWN}
    alike = until(curves.of(curves.main.name, "default"), curves.main.goal)
    ratios = {
        population: _ratio(
            until(curves.of(curves.main.name, "default", population), curves.main.goal), alike, population, "iid"
        )
        for population in SKEWED
    }
    known = [ratio for ratio in ratios.values() if ratio["value"] is not None]
    if not known:
        return figure | {"note": "no pair of curves yet"}
    worst = max(known, key=lambda ratio: ratio["value"])
    if len(known) < len(ratios) and "bound" not in worst:
        worst = worst | {"bound": "at least", "note": "one population is still to be measured"}
    details = {population: ratio["value"] for population, ratio in ratios.items()}
    return figure | worst | {"by_population": details, "accuracy": curves.main.goal}


def _gap_closed(curves: Curves) -> Figure:
    figure = make_figure("gap_closed_yelp", None, "fraction of the gap between probe and backprop LoRA", 0.5, "higher")
    task = curves.hard.name
    own = curves.of(task, "default")
    accuracy = final_accuracy(own)
    probe, backprop = (_best(curves, task, methods) for methods in (PROBES, BACKPROP))
    figure["peer"] = {"probe": rounded(probe), "backprop_lora": rounded(backprop), "default": rounded(accuracy)}
    if accuracy is None or probe is None or backprop is None:
        missing = [name for name, value in figure["peer"].items() if value is None]
        return figure | {"note": f"not complete yet: {', '.join(missing)}"}
    if backprop <= probe:
        return figure | {"note": "backprop LoRA is not above the probe: there is no gap"}

    def closed(accuracy: float) -> float:
        return (accuracy - probe) / (backprop - probe)

    each = [closed(curve.final.accuracy) for curve in own if curve.final]
    return figure | {"value": rounded(closed(accuracy)), **_spread(each)}


def _below_probe(curves: Curves) -> Figure:
    """Return the worst difference, over tasks and populations, to ridge on the features that the head reads."""
    figure = make_figure("below_probe", None, "points of accuracy, default − ridge on its features", -0.5, "higher")
    figure["peer"] = OWN_PROBE
    places = dict.fromkeys((curve.task, curve.population) for curve in curves.all if curve.method == "default")
    details = {}
    for task, population in places:
        own = final_accuracy(curves.of(task, "default", population))
        # The rows are the same, whoever has them.
        probe = final_accuracy(curves.of(task, OWN_PROBE, population) or curves.of(task, OWN_PROBE))
        if own is not None and probe is not None:
            details[f"{task}/{population}"] = rounded(100 * (own - probe))
    if not details:
        return figure | {"note": "no pair of curves yet"}
    worst = min(details, key=lambda place: details[place])
    return figure | {"value": details[worst], "note": f"on {worst}", "by_place": details}


def _bytes(curves: Curves) -> Figure:
    figure = make_figure("bytes_per_device_default", None, "bytes up and down, without the model", 3.5e6, "lower")
    own = curves.of(curves.main.name, "default")
    peers = {
        method: round(mean(curve.bytes_per_device for curve in found))
        for method in BACKPROP
        if (found := curves.of(curves.main.name, method))
    }
    if not own:
        return figure | {"note": "no curve yet", "peer": peers}
    each = [curve.bytes_per_device for curve in own]
    ways = {
        "up": round(mean(curve.last.bytes_up / curve.devices for curve in own)),
        "down": round(mean(curve.last.bytes_down / curve.devices for curve in own)),
    }
    figure |= {"value": round(mean(each)), **_spread(each), **ways, "peer": peers}
    return figure if all(curve.complete for curve in own) else figure | {"bound": "at least", "note": "not complete"}


def progress(curve: Curve) -> str:
    """How far an incomplete run got."""
    return f"stopped at round {curve.last.version} of {curve.rounds}, {curve.last.example_passes:,.0f} passes"


def _best(curves: Curves, task: str, methods: Sequence[str]) -> float | None:
    found = (final_accuracy(curves.of(task, method)) for method in methods)
    return max((value for value in found if value is not None), default=None)


def _fall(curves: Curves) -> Figure:
    figure = make_figure("largest_fall_500_rounds", None, "points of accuracy below the best until then", 2, "lower")
    task = curves.main.name
    figure["peer"] = {
        method: rounded(100 * max(curve.largest_fall for curve in found))
        for method in ("default", *PAPER)
        if (found := curves.of(task, method))
    }
    own = curves.of(task, "default-500-rounds")
    if not own:
        return figure | {"note": "no curve yet"}
    figure["value"] = rounded(100 * max(curve.largest_fall for curve in own))
    unfinished = [progress(curve) for curve in own if not curve.complete]
    return figure | ({"bound": "at least", "note": f"so far: {', '.join(unfinished)}"} if unfinished else {})


def _ratio(above: Spent | None, below: Spent | None, over: str, under: str) -> Figure:
    """``above`` over ``below``, or the bound that can be told."""
    if above is None or below is None:
        return {"value": None, "note": f"no curve of {over if above is None else under} yet"}
    if not above.reached and not below.reached:
        return {"value": None, "note": f"neither {over} nor {under} has reached the accuracy"}
    if below.value <= 0:
        return {"value": None, "note": f"{under} has it before the first pass"}
    value = {"value": rounded(above.value / below.value)}
    if not above.reached:
        return value | {"bound": "at least", "note": f"{over} has not reached it in {above.value:,.0f} passes"}
    if not below.reached:
        return value | {"bound": "at most", "note": f"{under} has not reached it in {below.value:,.0f} passes"}
    return value


def _spread(values: Sequence[float]) -> Figure:
    return {"range": [rounded(min(values)), rounded(max(values))], "seeds": len(values)}


def _spent_of(spent: Spent) -> Figure:
    return {"value": round(spent.value)} | ({} if spent.reached else {"bound": "at least"})
