"""The tables and figures of ``make bench-privacy``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

from benchmarks.privacy.accuracy import EPSILONS, Run
from benchmarks.reporting import Figure

Results = Mapping[str, Mapping[str, Any]]


def accuracy_rows(results: Results, tasks: Sequence[str], devices: Sequence[int]) -> Iterator[Sequence[str]]:
    """Yield the table of accuracies, and of what a membership attack finds, by budget."""
    budgets = [_budget(epsilon) for epsilon in EPSILONS]
    yield ("data", "devices", *(f"accuracy at {budget}" for budget in budgets), "attack without", "attack at ε = 8")
    for task in tasks:
        for number in devices:
            found = [results.get(Run(task, number, epsilon, 1).name) for epsilon in EPSILONS]
            if any(found):
                yield (
                    task,
                    f"{number:,}",
                    *("–" if each is None else f"{each['accuracy']:.1%}" for each in found),
                    *("–" if each is None else f"{each['membership_auc']:.3f}" for each in found[:2]),
                )


def cost_rows(costs: Results, plain: Mapping[str, float]) -> Iterator[Sequence[str]]:
    """Yield the table of what secure aggregation costs a device in a round."""
    yield ("cohort", "", "bytes up", "bytes down", "CPU of a device, ms", "CPU of the coordinator, s")
    yield ("any", "without", f"{plain['up']:,.0f}", "0", f"{1000 * plain['cpu_s']:.1f}", "–")
    for cohort, both in costs.items():
        for who, title in (("ours", "with"), ("flower", "Flower's SecAgg+")):
            cost = both[who]
            yield (
                cohort,
                title,
                f"{cost['up']:,.0f}",
                f"{cost['down']:,.0f}",
                f"{1000 * cost['cpu_s']:.1f}",
                f"{cost['server_s']:.2f}",
            )


def figures(results: Results, costs: Results, latency_s: float | None) -> Iterator[Figure]:
    """Yield what docs and tests refer to."""
    for name, found in results.items():
        task, devices, epsilon, _ = name.split(".")
        yield {
            "name": f"accuracy_at_epsilon_{epsilon}_{task}_{devices}",
            "value": round(found["accuracy"], 4),
            "unit": "fraction of test rows",
            "goal": None,
            "better": "higher",
            "seeds": 1,
        }
    for figure, sums in (("secagg_bytes_ratio_flower", _bytes), ("secagg_cpu_ratio_flower", _cpu_s)):
        ratios = {cohort: sums(both["flower"]) / sums(both["ours"]) for cohort, both in costs.items()}
        yield {
            "name": figure,
            "value": round(ratios["100"], 2) if "100" in ratios else None,
            "unit": "×",
            "goal": 10,
            "better": "higher",
            "cohort": 100,
            "of_cohorts": {cohort: round(ratio, 2) for cohort, ratio in ratios.items()},
            "repetitions": {cohort: both["repetitions"] for cohort, both in costs.items()},
        }
    yield {
        "name": "secagg_added_latency_s_100",
        "value": latency_s,
        "unit": "s",
        "goal": 2,
        "better": "lower",
    }


def _bytes(cost: Mapping[str, float]) -> float:
    return cost["up"] + cost["down"]


def _cpu_s(cost: Mapping[str, float]) -> float:
    return cost["cpu_s"]


def _budget(epsilon: float) -> str:
    return "no noise" if epsilon == inf else f"ε = {epsilon:g}"
