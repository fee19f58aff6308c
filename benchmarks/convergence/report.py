"""From raw curves to tables, figures and pictures; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convergence import plots, tables
from benchmarks.convergence.curves import Curve, keep_further, load_all
from benchmarks.convergence.figures import Curves, all_figures
from benchmarks.convergence.progress import read
from benchmarks.convergence.runs import Run, Settings, all_runs
from benchmarks.convergence.tasks import files_of
from benchmarks.environment import REPOSITORY, environment
from benchmarks.markdown import write_results

_COMMAND = "make bench-convergence"


@dataclass(frozen=True)
class Places:
    """Where results are kept: raw curves, figures, the document with the tables, pictures."""

    curves: Path
    figures: Path
    document: Path
    images: Path

    @classmethod
    def committed(cls) -> Places:
        """Those of the repository."""
        results, docs = REPOSITORY / "benchmarks" / "results", REPOSITORY / "docs"
        return cls(results / "convergence", results / "convergence.json", docs / "benchmarks.md", docs / "images")

    @classmethod
    def below(cls, folder: Path) -> Places:
        """All in one folder, for runs that count for nothing."""
        return cls(folder / "curves", folder / "convergence.json", folder / "benchmarks.md", folder / "images")


def collect(settings: Settings, places: Places) -> list[str]:
    """Copy the curves of this machine's runs, finished or not, to the results; the names of those copied."""
    folders = sorted((settings.output / "runs").glob("*"))
    curves = (curve for folder in folders if (curve := read(folder)) is not None and curve.points)
    return [curve.name for curve in curves if keep_further(curve, places.curves)]


def write_report(settings: Settings, places: Places) -> str:
    """Write figures, tables and pictures of the curves in the results; returns the tables."""
    found = load_all(places.curves)
    curves = Curves.quick(found) if settings.quick else Curves(found)
    figures = all_figures(curves)
    outdated = _outdated(found, settings)
    drawn = plots.draw_all(curves, places.images)
    pictures = {task: path.relative_to(places.document.parent).as_posix() for task, path in drawn.items()}
    text = "\n".join(tables.sections(curves, figures, lambda curve: curve.name in outdated, pictures))
    places.figures.parent.mkdir(parents=True, exist_ok=True)
    values = {"environment": _environment_of(found), "figures": figures}
    places.figures.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_results(places.document, _COMMAND, text)
    return text


def _outdated(curves: Sequence[Curve], settings: Settings) -> set[str]:
    """Names of the curves whose recipe is no longer what its name stands for."""
    runs: dict[str, Run] = {".".join(run.parts): run for run in all_runs((), settings.quick)}
    recipes = {
        name: settings.recipe(run, files_of(run.task, Path(), settings.quick))
        for name, run in runs.items()
        if any(curve.name == name for curve in curves)
    }
    return {curve.name for curve in curves if curve.made.get("recipe") != recipes.get(curve.name)}


def _environment_of(curves: Sequence[Curve]) -> dict[str, object]:
    """Of the machine that made the curves; every curve's file has its own."""
    known = [curve.made["environment"] for curve in curves if "environment" in curve.made]
    return dict(known[-1]) if known else environment()
