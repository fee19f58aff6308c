"""What the benchmarks' commands have in common: options, figures with their goals, and where results are written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from benchmarks.environment import REPOSITORY
from benchmarks.markdown import write_results

Figure: TypeAlias = dict[str, Any]
"""``name``, ``value`` (None if it was not measured), ``unit``, ``goal``, which way is ``better``, and details."""


def parser(benchmark: str, description: str | None, quick: str) -> argparse.ArgumentParser:
    """Return the options of ``make bench-BENCHMARK``: ``--quick``, ``--keep`` and ``--output``."""
    options = argparse.ArgumentParser(prog=f"make bench-{benchmark}", description=description)
    options.add_argument("--quick", action="store_true", help=f"{quick}, kept apart: does all of it work?")
    options.add_argument("--keep", action="store_true", help="write the results of the repository")
    options.add_argument("--output", type=Path, help=f"folder for everything else (benchmark-output/{benchmark})")
    return options


def output_folder(benchmark: str, arguments: argparse.Namespace) -> Path:
    """Make and return the folder that the options name, or the benchmark's own; a quick run has one of its own."""
    own = REPOSITORY / "benchmark-output" / (f"{benchmark}-quick" if arguments.quick else benchmark)
    folder: Path = (arguments.output or own).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def results_file(benchmark: str) -> Path:
    """Return the file of the results that the repository keeps."""
    return REPOSITORY / "benchmarks" / "results" / f"{benchmark}.json"


def write_report(benchmark: str, page: str, output: Path | None, value: Mapping[str, Any], text: str) -> None:
    """Write results as JSON, put ``text`` between the markers of a document, and print it with the figures.

    The document is ``docs/PAGE``, the JSON the repository's; with an ``output`` folder, both are files in it.
    """
    file, document = results_file(benchmark), REPOSITORY / "docs" / page
    if output is not None:
        file, document = output / f"{benchmark}.json", output / f"{benchmark}.md"
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_results(document, f"make bench-{benchmark}", text)
    print(text)
    print_figures(value["figures"])


def print_figures(figures: Iterable[Figure]) -> None:
    """Print each figure with its goal, one a line."""
    for each in figures:
        goal = "at least" if each["better"] == "higher" else "at most"
        print(f"{each['name']}: {each['value']} {each['unit']} (goal: {goal} {each['goal']})")


def make_figure(
    name: str,
    value: float | None,
    unit: str,
    goal: float | None,
    better: Literal["lower", "higher"] = "lower",
) -> Figure:
    """Return a figure; details are added to it with ``|``."""
    return {"name": name, "value": value, "unit": unit, "goal": goal, "better": better}


@overload
def rounded(value: float) -> float: ...
@overload
def rounded(value: None) -> None: ...
@overload
def rounded(value: float | None) -> float | None: ...
def rounded(value: float | None) -> float | None:
    """Return the value with four significant digits."""
    return None if value is None else float(f"{value:.4g}")
