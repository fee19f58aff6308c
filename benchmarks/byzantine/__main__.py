"""The command line of ``make bench-byzantine``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from benchmarks.byzantine.report import figures, rows
from benchmarks.byzantine.runs import ALPHA, BYZANTINE, all_runs, result_of
from benchmarks.convergence.tasks import TASKS, prepare
from benchmarks.environment import environment
from benchmarks.markdown import table
from benchmarks.reporting import output_folder, parser, write_report

_TASK = "bbc_news"


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _arguments()
    output = output_folder("byzantine", arguments)
    files = prepare(TASKS[_TASK], None, output / "tasks", arguments.quick)
    results: dict[str, Mapping[str, Any]] = {}
    for run in all_runs(1 if arguments.quick else arguments.seeds):
        results[run.name] = result_of(run, files, output, quick=arguments.quick, threads=arguments.threads)
        print(f"{run.name}: {results[run.name]['accuracy']:.1%}", flush=True)
    text = "\n".join(table(*rows(results)))
    value = {
        "environment": environment(),
        "made": {"byzantine": BYZANTINE, "alpha": ALPHA, "test_rows": files.facts["curve"]},
        "figures": figures(results),
        "runs": results,
    }
    write_report("byzantine", "security.md", None if arguments.keep else output, value, text)


def _arguments() -> argparse.Namespace:
    options = parser("byzantine", "Accuracy with a fifth of devices lying.", quick="a few rounds of few devices")
    options.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions (1)")
    options.add_argument("--threads", type=int, default=1, metavar="N", help="of the engine (1)")
    return options.parse_args()


if __name__ == "__main__":
    main()
