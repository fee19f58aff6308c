"""The table and the figures, from what the runs found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reporting import Figure, make_figure, rounded

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""The epochs of LoRA by its rate, the first before any training."""


def rows(scalars: Mapping[str, Any], runs: Runs) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and rows: what was trained how long, and what then holds on the test rows."""
    first = next(iter(scalars.values()))["points"][0]
    header = ["trained", "test loss a token", "exact completion, teacher-forced"]
    found = [["nothing", f"{first['loss']:.3f}", f"{first['exact_match']:.1%}"]]
    for rate, points in runs.items():
        for point in points[1:]:
            name = f"LoRA by backpropagation, {rate}, epoch {point['epoch']}"
            found.append([name, f"{point['test']['loss']:.3f}", f"{point['test']['exact_match']:.1%}"])
    for rate, run in scalars.items():
        last = run["points"][-1]
        name = f"side network by scalars, {rate}, round {last['version']}"
        found.append([name, f"{last['loss']:.3f}", f"{last['exact_match']:.1%}"])
    return header, found


def figures(scalars: Mapping[str, Any], runs: Runs, seconds: Mapping[str, float], devices: int) -> list[Figure]:
    """Compare the best versions of both by the loss on the validation rows."""
    points = [{"rate": rate, **point} for rate, run in runs.items() for point in run]
    reference, start = min(points, key=lambda point: point["validation"]["loss"]), points[0]
    versions = [{"rate": rate, **point} for rate, run in scalars.items() for point in run["points"]]
    best, first = min(versions, key=lambda point: point["validation"]), versions[0]
    gained, wanted = first["loss"] - best["loss"], start["test"]["loss"] - reference["test"]["loss"]
    return [
        make_figure(
            "loss_gain_ratio_clinc",
            rounded(gained / wanted),
            "of the fall of the test loss by backpropagation LoRA",
            1.0,
            "higher",
        )
        | {
            "loss_before": rounded(first["loss"]),
            "rate": best["rate"],
            "round": best["version"],
            "loss": rounded(best["loss"]),
            "exact_match": rounded(best["exact_match"]),
            "peer": {"lora": reference},
        },
        make_figure(
            "cpu_ratio_today_over_new",
            rounded(seconds["differences"] / seconds["linearised"]),
            "times the CPU seconds of a directional derivative if the loss itself is taken twice",
            10.0,
            "higher",
        ),
        make_figure("mb_up_per_device", rounded(best["bytes_up"] / devices / 1e6), "MB, all rounds together", 0.5),
    ]
