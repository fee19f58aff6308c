"""The command line of ``make bench-convergence``."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import structlog

from benchmarks.convergence.curves import Curve, Point
from benchmarks.convergence.methods import Method
from benchmarks.convergence.report import Places, collect, write_report
from benchmarks.convergence.runs import Run, Settings, Show, all_runs, missing_data
from benchmarks.environment import REPOSITORY
from fwdllm_common.errors import FwdllmError

_OUTPUT = REPOSITORY / "benchmark-output"


def main() -> None:
    """Run what is asked for, or only report."""
    arguments = _parser().parse_args()
    settings = _settings(arguments)
    only = [name for names in arguments.only for name in names.replace(",", " ").split()]
    places = Places.below(settings.output / "report") if settings.quick else Places.committed()
    try:
        runs = all_runs(only, settings.quick)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if arguments.list:
        print("\n".join("/".join(run.parts) for run in runs))
        return
    failed = False
    if not arguments.report:
        _prepare_process()
        try:
            failed = not _run_all(runs, settings)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", flush=True)
            raise SystemExit(130) from None
    if not settings.tuning:
        for name in collect(settings, places):
            print(f"kept {places.curves / name}.json")
        print(write_report(settings, places))
    raise SystemExit(1 if failed else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-convergence", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with ag_news/, yelp_sentences/, twitter_airline/")
    parser.add_argument(
        "--quick", action="store_true", help="BBC News alone, in small, kept apart: does all of it work?"
    )
    parser.add_argument("--only", action="append", default=[], metavar="TASK/METHOD[/POPULATION][/SEED]")
    parser.add_argument("--report", action="store_true", help="measure nothing; report what there is, finished or not")
    parser.add_argument("--list", action="store_true", help="name the runs")
    parser.add_argument("--tune", action="store_true", help="measure on the validation rows; never a result")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --tune, such as blocks.head.directions=512",
    )
    parser.add_argument("--max-passes", type=float, help="pause each simulated run at so many example-passes")
    parser.add_argument("--threads", type=int, default=0, help="for computing; 0 is one per core")
    parser.add_argument("--output", type=Path, help="folder of unfinished runs (benchmark-output/convergence)")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.set and not arguments.tune:
        raise SystemExit("error: --set changes a method, which is then no result; say --tune as well")
    return Settings(
        output=arguments.output or _OUTPUT / ("convergence-quick" if arguments.quick else "convergence"),
        data=arguments.data,
        quick=arguments.quick,
        tuning=arguments.tune,
        changes=dict(_change(text) for text in arguments.set),
        max_passes=arguments.max_passes,
        threads=arguments.threads,
    )


def _change(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _run_all(runs: list[Run], settings: Settings) -> bool:
    """Do the runs one after the other; False if one could not be done."""
    missing = missing_data(runs, settings.data)
    if missing:
        print(f"left out, since DATA names no folder with them: {', '.join(missing)}", flush=True)
    well = True
    for run in (run for run in runs if run.task.name not in missing):
        name, began = "/".join(run.parts), time.monotonic()

        def show(point: Point, name: str = name, began: float = began) -> None:
            print(
                f"{name}  {time.monotonic() - began:.0f} s  round {point.version}  accuracy {point.accuracy:.2%}  "
                f"loss {point.loss:.4f}  {point.directions:,} directions  {point.example_passes:,.0f} passes",
                flush=True,
            )

        try:
            curve = _measure(run, settings, show)
        except (ValueError, FwdllmError) as error:
            well = False
            print(f"{name}: {error}", flush=True)
            continue
        state = curve.note or ("complete" if curve.complete else "paused at its limit of passes")
        final = f", {curve.final.accuracy:.2%} of {curve.final.rows:,} test rows" if curve.final else ""
        print(f"{name}: {state}{final}", flush=True)
    return well


def _measure(run: Run, settings: Settings, show: Show) -> Curve:
    """Begin the run, resume it, or read its result.

    :raises ValueError: the recipe has changed since the run began.
    """
    # Here and not above: to list and to report need no PyTorch.
    if isinstance(run.method, Method):
        from benchmarks.convergence.simulated import simulate as measure
    else:
        from benchmarks.convergence.references import refer as measure
    return measure(run, settings.files(run.task), settings, show)


def _prepare_process() -> None:
    # An event for each round would drown the points.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    # ``timeout`` stops as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


if __name__ == "__main__":
    main()
