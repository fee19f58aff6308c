"""The command line of ``make bench-generation``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.generation.backprop import EPOCHS, RATES, lora
from benchmarks.generation.report import figures, rows
from benchmarks.generation.rows import prepare
from benchmarks.generation.scalars import Setting, by_scalars, cpu_seconds
from benchmarks.markdown import table
from benchmarks.reporting import output_folder, parser, write_report

_INTENTS = 150


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _arguments()
    intents = 8 if arguments.quick else arguments.intents
    files = prepare(arguments.data, output_folder("generation", arguments) / f"clinc-{intents}", intents)
    devices, rounds = (10, 2) if arguments.quick else (arguments.devices, arguments.rounds)
    setting = Setting(devices, rounds=rounds, learning_rate=arguments.rate, evaluate_every=max(1, rounds // 4))
    scalars = by_scalars(files, setting)
    rates, epochs = ((RATES[0],), 1) if arguments.quick else (RATES, EPOCHS)
    runs = {f"{rate:g}": lora(files, rate, epochs) for rate in rates}
    seconds = cpu_seconds(files, setting.batch)
    value = {
        "environment": environment(),
        "made": {"intents": intents, "per_round": setting.per_round, **asdict(setting), "seeds": 1},
        "figures": figures(scalars, runs, seconds, setting.devices),
        "scalars": scalars,
        "lora": runs,
        "cpu_seconds_a_direction": seconds,
    }
    text = "\n".join(table(*rows(scalars, runs)))
    write_report("generation", "benchmarks.md", None if arguments.keep else files.folder, value, text)


def _arguments() -> argparse.Namespace:
    options = parser("generation", __doc__, quick="a few intents, rounds and devices")
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has clinc150/data_full.json")
    options.add_argument("--intents", type=int, default=_INTENTS, metavar="N", help="with ten training rows each (150)")
    options.add_argument("--devices", type=int, default=Setting().devices, metavar="N", help="in all (100)")
    options.add_argument(
        "--rounds", type=int, default=Setting().rounds, metavar="N", help="of a fifth of the devices (60)"
    )
    options.add_argument("--rate", type=float, default=Setting().learning_rate, help="of the scalars (0.01)")
    return options.parse_args()


if __name__ == "__main__":
    main()
