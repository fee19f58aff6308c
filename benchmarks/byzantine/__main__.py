"""The command line of ``make bench-byzantine``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.byzantine.report import figures, rows
from benchmarks.byzantine.runs import ALPHA, BYZANTINE, all_runs, result_of
from benchmarks.convergence.environment import REPOSITORY, environment
from benchmarks.convergence.tasks import TASKS, prepare
from benchmarks.markdown import table, write_results

_TASK = "bbc_news"


def main() -> None:
    """Run what is not there yet, then report."""
    arguments = _parser().parse_args()
    default = REPOSITORY / "benchmark-output" / ("byzantine-quick" if arguments.quick else "byzantine")
    output: Path = arguments.output or default
    output.mkdir(parents=True, exist_ok=True)
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
    places = (output / "byzantine.json", output / "byzantine.md")
    if arguments.keep:
        places = (REPOSITORY / "benchmarks/results/byzantine.json", REPOSITORY / "docs/security.md")
    places[0].write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_results(places[1], "make bench-byzantine", text)
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-byzantine", description="Accuracy with a fifth of devices lying.")
    parser.add_argument("--quick", action="store_true", help="a few rounds of few devices: that it works, not figures")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions (1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the engine (1)")
    parser.add_argument("--keep", action="store_true", help="write the committed figures and docs/security.md")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where runs are kept and gone on with")
    return parser


if __name__ == "__main__":
    main()
