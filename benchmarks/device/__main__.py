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

from benchmarks.convergence.environment import REPOSITORY, environment
from benchmarks.device.accuracy import accuracy
from benchmarks.device.report import all_figures, sections
from benchmarks.device.shapes import QUICK_SHAPE, SHAPES, Shape, export_shape
from benchmarks.device.work import names
from benchmarks.device.workplace import DIRECTIONS, Workplace
from benchmarks.markdown import write_results

T = TypeVar("T")

_QUICK_DIRECTIONS = 4
_LLAMA = REPOSITORY / "benchmarks/results/llama.json"


def main() -> None:
    """Export the shapes, measure every method in turn, repeat; then report."""
    arguments = _parser().parse_args()
    shapes = [QUICK_SHAPE] if arguments.quick else [SHAPES[name] for name in arguments.only or SHAPES]
    default = REPOSITORY / "benchmark-output" / ("device-quick" if arguments.quick else "device")
    output: Path = arguments.output or default
    methods = [name for name in names() if not arguments.methods or name in arguments.methods]
    results = {shape.name: _measure(shape, methods, output, arguments) for shape in shapes}
    accuracies = {shape.name: found for shape in shapes if (found := accuracy(output / shape.name)) is not None}
    figures, document = output / "device.json", output / "device.md"
    if arguments.keep:
        figures, document = REPOSITORY / "benchmarks/results/device.json", REPOSITORY / "docs/device-engine.md"
    if arguments.keep and arguments.only:  # the others' stay: ratios are within a shape
        kept, shapes = json.loads(figures.read_text()), list(SHAPES.values())
        results = _in_order({**kept["measurements"], **results})
        accuracies = _in_order({**kept["accuracies"], **accuracies})
    text = "\n".join(sections(results, {shape.name: shape.title for shape in shapes}, accuracies))
    made = {"threads": arguments.threads, "repetitions": arguments.repetitions, "directions": _directions(arguments)}
    value = {
        "environment": environment(),
        "made": made,
        "figures": [
            *all_figures(results, {shape.name: shape.precision for shape in shapes}, accuracies),
            *(json.loads(_LLAMA.read_text())["figures"] if _LLAMA.exists() else ()),  # of make bench-llama
        ],
        "measurements": results,
        "accuracies": accuracies,
    }
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_results(document, "make bench-device", text)
    print(text)
    for figure in value["figures"]:
        print(f"{figure['name']}: {figure['value']} {figure['unit']} (goal: at most {figure['goal']})")


def _in_order(found: Mapping[str, T]) -> dict[str, T]:
    return {name: found[name] for name in SHAPES if name in found}


def _measure(
    shape: Shape, methods: Sequence[str], output: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """The methods one after the other, and that several times: what disturbs the machine disturbs them alike."""
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
    """What one method takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.device.measure", name, json.dumps(asdict(place), default=str)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {name} failed\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _directions(arguments: argparse.Namespace) -> int:
    return _QUICK_DIRECTIONS if arguments.quick else DIRECTIONS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-device", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, kept apart: does all of it work?")
    parser.add_argument("--only", action="append", choices=list(SHAPES), help="this shape; may be repeated")
    parser.add_argument("--methods", action="append", choices=names(), help="this method; may be repeated")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="for all methods alike (1)")
    parser.add_argument("--keep", action="store_true", help="write the results of the repository")
    parser.add_argument("--output", type=Path, help="folder of models and results (benchmark-output/device)")
    return parser


if __name__ == "__main__":
    main()
