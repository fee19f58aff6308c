"""The command line of ``make bench-privacy``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.convergence.tasks import QUICK_TASK, TASKS, available, prepare
from benchmarks.coordinator.flower import VERSION
from benchmarks.environment import environment
from benchmarks.markdown import table
from benchmarks.privacy import accuracy, secagg
from benchmarks.privacy.report import accuracy_rows, cost_rows, figures
from benchmarks.reporting import output_folder, parser, write_report


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _arguments()
    output = output_folder("privacy", arguments)
    repetitions = {8: 1} if arguments.quick else secagg.REPETITIONS
    costs = (
        {} if arguments.only == "accuracy" else secagg.measured(output, repetitions, secagg.LENGTH, arguments.report)
    )
    tasks = (QUICK_TASK,) if arguments.quick else accuracy.TASKS
    devices = (100,) if arguments.quick else accuracy.DEVICES
    results: dict[str, Mapping[str, Any]] = {}
    for run in accuracy.all_runs(1, tasks, devices):
        kept = (output / f"{run.name}.json").exists()
        is_possible = available(TASKS[run.task], arguments.data) and not (arguments.report or arguments.only == "cost")
        if kept or is_possible:
            files = prepare(TASKS[run.task], arguments.data, output / "tasks", arguments.quick)
            results[run.name] = accuracy.result_of(run, files, output, quick=arguments.quick, threads=arguments.threads)
            print(f"{run.name}: {results[run.name]}", flush=True)
    plain = secagg.plain()
    head, *rows = accuracy_rows(results, tasks, devices)
    cost_head, *costs_of = cost_rows(costs, plain)
    accuracies = [*table(head, rows), ""] if rows else []
    text = "\n".join([*accuracies, *table(cost_head, costs_of)])
    value = {
        "environment": {**environment(), "flwr": VERSION},
        "made": {
            "length": secagg.LENGTH,
            "delta": accuracy.DELTA,
            "clips": dict(accuracy.CLIPS),
            "recipes": {str(number): asdict(recipe) for number, recipe in accuracy.RECIPES.items()},
            "rows_of_the_attack": accuracy.ROWS,
            "seeds": 1,
        },
        "figures": list(figures(results, costs, None)),
        "runs": results,
        "without": plain,
        "costs": costs,
    }
    write_report("privacy", "privacy.md", None if arguments.keep else output, value, text)


def _arguments() -> argparse.Namespace:
    options = parser("privacy", "Accuracy against the budget; what secure aggregation costs.", quick="a few rounds")
    options.add_argument("--data", type=Path, help="folder of the data sets")
    options.add_argument("--only", choices=("accuracy", "cost"), help="half of it")
    options.add_argument("--report", action="store_true", help="run nothing more")
    options.add_argument("--threads", type=int, default=1, metavar="N", help="of the engine (1)")
    return options.parse_args()


if __name__ == "__main__":
    main()
