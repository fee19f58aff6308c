"""The command line of ``make bench-generation``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.generation.backprop import EPOCHS, RATES, lora
from benchmarks.generation.report import figures, rows
from benchmarks.generation.rows import prepare
from benchmarks.generation.scalars import Setting, by_scalars, cpu_seconds
from benchmarks.markdown import table
from benchmarks.reporting import output_folder, parser, write_report

_INTENTS = 150
_QUICK_INTENTS, _QUICK_DEVICES = 8, 10


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _arguments()
    intents = _QUICK_INTENTS if arguments.quick else arguments.intents
    files = prepare(arguments.data, output_folder("generation", arguments) / f"clinc-{intents}", intents)
    settings = list(_settings(arguments))
    scalars = {f"{each.learning_rate:g}": by_scalars(files, each) for each in settings}
    rates, epochs = (RATES[:1], 1) if arguments.quick else (RATES, EPOCHS)
    runs = {f"{rate:g}": lora(files, rate, epochs) for rate in rates}
    seconds = cpu_seconds(files, settings[0].batch)
    value = {
        "environment": environment(),
        "made": {"intents": intents, "per_round": settings[0].per_round, "seeds": 1},
        "figures": figures(scalars, runs, seconds, settings[0].devices),
        "scalars": scalars,
        "lora": runs,
        "cpu_seconds_a_direction": seconds,
    }
    text = "\n".join(table(*rows(scalars, runs)))
    write_report("generation", "benchmarks.md", None if arguments.keep else files.folder, value, text)


def _settings(arguments: argparse.Namespace) -> Iterator[Setting]:
    """Yield a setting for each rate; a single number of rounds is that of every rate."""
    if arguments.quick:
        yield Setting(_QUICK_DEVICES, rounds=2, evaluate_every=1)
        return
    numbers = arguments.rounds * (len(arguments.rates) if len(arguments.rounds) == 1 else 1)
    for rounds, rate in zip(numbers, arguments.rates, strict=True):
        yield Setting(arguments.devices, rounds=rounds, learning_rate=rate, evaluate_every=max(1, rounds // 4))


def _arguments() -> argparse.Namespace:
    options = parser("generation", __doc__, quick="a few intents, rounds and devices")
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has clinc150/data_full.json")
    options.add_argument("--intents", type=int, default=_INTENTS, metavar="N", help="with ten training rows each (150)")
    options.add_argument("--devices", type=int, default=Setting().devices, metavar="N", help="in all (100)")
    options.add_argument("--rounds", type=int, nargs="+", default=[60], metavar="N", help="for each rate (60)")
    options.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.02], metavar="R", help="(0.01 0.02)")
    return options.parse_args()


if __name__ == "__main__":
    main()
