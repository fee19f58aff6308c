"""The command line of ``make bench-generation``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.convergence.environment import environment
from benchmarks.generation.backprop import EPOCHS, RATES, best, lora
from benchmarks.generation.rows import prepare
from benchmarks.generation.scalars import Setting, by_scalars, cpu_seconds
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, output_folder, parser, rounded, write_report

_INTENTS = 150


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _arguments()
    intents = 8 if arguments.quick else arguments.intents
    files = prepare(arguments.data, output_folder("generation", arguments) / f"clinc-{intents}", intents)
    setting = Setting(devices=arguments.devices, rounds=arguments.rounds)
    if arguments.quick:
        setting = Setting(devices=4, per_round=2, rounds=2, evaluate_every=1)
    scalars = by_scalars(files, setting)
    rates, epochs = ((RATES[0],), 1) if arguments.quick else (RATES, EPOCHS)
    runs = {f"{rate:g}": lora(files, rate, epochs) for rate in rates}
    seconds = cpu_seconds(files, setting.batch)
    value = {
        "environment": environment(),
        "made": {"intents": intents, "devices": setting.devices, "rounds": setting.rounds, "seeds": 1},
        "figures": figures(scalars, runs, seconds, setting.devices),
        "scalars": scalars,
        "lora": runs,
        "cpu_seconds_a_direction": seconds,
    }
    text = "\n".join(table(*rows(scalars, runs)))
    write_report("generation", "benchmarks.md", None if arguments.keep else files.folder, value, text)


def rows(
    scalars: Mapping[str, Any], runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and rows: what was trained how long, and what then holds on the test rows."""
    first, *_, last = scalars["points"]
    header = ["trained", "test loss a token", "exact completion, teacher-forced"]
    found = [["nothing", f"{first['loss']:.3f}", f"{first['exact_match']:.1%}"]]
    for rate, points in runs.items():
        for point in points[1:]:
            name = f"LoRA by backpropagation, {rate}, epoch {point['epoch']}"
            found.append([name, f"{point['test']['loss']:.3f}", f"{point['test']['exact_match']:.1%}"])
    name = f"side network by scalars, {last['version']} rounds"
    return header, [*found, [name, f"{last['loss']:.3f}", f"{last['exact_match']:.1%}"]]


def figures(
    scalars: Mapping[str, Any],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    seconds: Mapping[str, float],
    devices: int,
) -> list[Figure]:
    """Compare the last round with the best epoch of LoRA's best rate by validation."""
    first, *_, last = scalars["points"]
    reference, start = best(runs), next(iter(runs.values()))[0]
    gained, wanted = first["loss"] - last["loss"], start["test"]["loss"] - reference["test"]["loss"]
    return [
        make_figure(
            "loss_gain_ratio_clinc",
            rounded(gained / wanted),
            "of the fall of the test loss by backpropagation LoRA",
            1.0,
            "higher",
        )
        | {
            "loss": rounded(last["loss"]),
            "exact_match": rounded(last["exact_match"]),
            "peer": {"lora": reference, "loss_before": start["test"]["loss"]},
        },
        make_figure(
            "cpu_ratio_today_over_new",
            rounded(seconds["differences"] / seconds["linearised"]),
            "times the CPU seconds of a directional derivative if the loss itself is taken twice",
            10.0,
            "higher",
        ),
        make_figure("mb_up_per_device", rounded(last["bytes_up"] / devices / 1e6), "MB, all rounds together", 0.5),
    ]


def _arguments() -> argparse.Namespace:
    options = parser("generation", __doc__, quick="a few intents, rounds and devices")
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has clinc150/data_full.json")
    options.add_argument("--intents", type=int, default=_INTENTS, metavar="N", help="with ten training rows each (150)")
    options.add_argument("--devices", type=int, default=Setting().devices, metavar="N", help="in all (100)")
    options.add_argument("--rounds", type=int, default=Setting().rounds, metavar="N", help="of 20 devices (60)")
    return options.parse_args()


if __name__ == "__main__":
    main()
