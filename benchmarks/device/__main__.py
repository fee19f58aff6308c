"""The command line of ``make bench-device``."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.device.accuracy import accuracy
from benchmarks.device.report import all_figures, sections
from benchmarks.device.shapes import QUICK_SHAPE, SHAPES, Shape, export_shape
from benchmarks.device.work import names
from benchmarks.device.workplace import DIRECTIONS, Workplace
from benchmarks.environment import REPOSITORY, environment
from benchmarks.reporting import output_folder, parser, results_file, write_report

T = TypeVar("T")

_QUICK_DIRECTIONS = 4


def main() -> None:
    """Export the shapes, measure every method in turn, repeat; then report."""
    arguments = _arguments()
    shapes = [QUICK_SHAPE] if arguments.quick else [SHAPES[name] for name in arguments.only or SHAPES]
    output = output_folder("device", arguments)
    methods = [name for name in names() if not arguments.methods or name in arguments.methods]
    results = {shape.name: _measure(shape, methods, output, arguments) for shape in shapes}
    accuracies = {shape.name: found for shape in shapes if (found := accuracy(output / shape.name)) is not None}
    if arguments.keep and arguments.only:  # the others' stay: ratios are within a shape
        kept, shapes = json.loads(results_file("device").read_text()), list(SHAPES.values())
        results = _in_order({**kept["measurements"], **results})
        accuracies = _in_order({**kept["accuracies"], **accuracies})
    text = "\n".join(sections(results, {shape.name: shape.title for shape in shapes}, accuracies))
    made = {"threads": arguments.threads, "repetitions": arguments.repetitions, "directions": _directions(arguments)}
    llama = results_file("llama")
    value = {
        "environment": environment(),
        "made": made,
        "figures": [
            *all_figures(results, {shape.name: shape.precision for shape in shapes}, accuracies),
            *(json.loads(llama.read_text())["figures"] if llama.exists() else ()),  # of make bench-llama
        ],
        "measurements": results,
        "accuracies": accuracies,
    }
    write_report("device", "device-engine.md", None if arguments.keep else output, value, text)


def _in_order(found: Mapping[str, T]) -> dict[str, T]:
    return {name: found[name] for name in SHAPES if name in found}


def _measure(
    shape: Shape, methods: Sequence[str], output: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Measure the methods in turn, several times: what disturbs the machine disturbs them alike."""
    folder, cache = output / shape.name, output / f"{shape.name}-cache"
    print(f"{shape.title}: exporting", flush=True)
    export_shape(shape, folder)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    vocabulary = int(shape.config.vocab_size)
    place = Workplace(shape.name, folder, cache, arguments.threads, vocabulary, _directions(arguments))
    large = shape.precision != "float32"
    place = replace(place, steps=1) if large else place
    for repetition in range(arguments.repetitions):
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        # Of large models backpropagation takes minutes, and it is its memory that is of interest.
        for name in (each for each in methods if repetition == 0 or not (large and each.startswith("torch"))):
            print(f"{shape.title}: {name}, {repetition + 1} of {arguments.repetitions}", flush=True)
            found[name].append(_alone(name, place))
    return found


def _alone(name: str, place: Workplace) -> dict[str, Any]:
    """Measure one method in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.device.measure", name, json.dumps(asdict(place), default=str)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {name} failed\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _directions(arguments: argparse.Namespace) -> int:
    return _QUICK_DIRECTIONS if arguments.quick else DIRECTIONS


def _arguments() -> argparse.Namespace:
    options = parser("device", __doc__, quick="a tiny model")
    options.add_argument("--only", action="append", choices=list(SHAPES), help="this shape; may be repeated")
    options.add_argument("--methods", action="append", choices=names(), help="this method; may be repeated")
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--threads", type=int, default=1, help="for all methods alike (1)")
    return options.parse_args()


if __name__ == "__main__":
    main()
