"""The runs that the tables of methods and tasks ask for, and what each is made from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.convergence.curves import Curve, Point
from benchmarks.convergence.jobs import job_of, recipe_of
from benchmarks.convergence.methods import METHODS, Method, Reference
from benchmarks.convergence.settings import as_json, settings_of
from benchmarks.convergence.tasks import QUICK_TASK, TASKS, Task, TaskFiles, available, prepare
from benchmarks.environment import environment
from fwdllm_server.simulation.population import Population

_QUICK_WHERE = (f"{QUICK_TASK}/iid",)
_QUICK_SKEWED = f"{QUICK_TASK}/dirichlet-0.1"

Show = Callable[[Point], None]


@dataclass(frozen=True)
class Run:
    """One curve to be measured. Seeds count from 1."""

    task: Task
    method: Method | Reference
    population: str
    seed: int

    @property
    def parts(self) -> tuple[str, ...]:
        """What names it."""
        return self.task.name, self.method.name, self.population, str(self.seed)


@dataclass(frozen=True)
class Settings:
    """How this invocation runs: where to, from which data, and whether in small.

    ``tuning`` measures on the validation rows, with ``changes`` to the method, and never becomes a result.
    ``max_passes`` stands in for the methods' own.
    """

    output: Path
    data: Path | None = None
    quick: bool = False
    tuning: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    max_passes: float | None = None
    threads: int = 0

    def folder(self, run: Run) -> Path:
        """Where a run keeps what it needs to go on."""
        changed = [f"{key}={value}" for key, value in self.changes.items()]
        return self.output / ("tuning" if self.tuning else "runs") / "+".join([".".join(run.parts), *changed])

    def files(self, task: Task) -> TaskFiles:
        """Prepare the task's rows, and return their files."""
        return prepare(task, self.data, self.output / "data", self.quick)

    def measured_on(self, files: TaskFiles) -> Path:
        """Return the file of the rows that the curve is measured on."""
        return files.validation if self.tuning else files.curve

    def recipe(self, run: Run, files: TaskFiles) -> dict[str, Any]:
        """Return what the run's result depends on, except for the rows."""
        if isinstance(run.method, Method):
            return recipe_of(self.job(run, files))
        own = settings_of(run.method.kind, {**run.method.settings, **self.changes}, self.quick)
        return {"kind": run.method.kind, "seed": run.seed, "max_tokens": files.max_tokens, **as_json(own)}

    def job(self, run: Run, files: TaskFiles) -> dict[str, Any]:
        """Return the job file of a method's run, as tables."""
        assert isinstance(run.method, Method)
        return job_of(run.method, files, run.seed, self.measured_on(files).name, self.quick, self.changes)

    def begun(self, run: Run, files: TaskFiles, rounds: int, devices: int) -> Curve:
        """Return the run's curve, which has no point yet."""
        made = {
            "command": self.command(run),
            "recipe": self.recipe(run, files),
            "rows": files.facts,
            "environment": environment(),
        }
        return Curve(
            run.task.name,
            run.method.name,
            run.population,
            run.seed,
            devices,
            rounds,
            complete=False,
            points=(),
            made=made,
        )

    def command(self, run: Run) -> str:
        """Return the command that measures the same curve."""
        data = " DATA=<folder>" if run.task.folder else ""
        return f"make bench-convergence{data}{' QUICK=1' if self.quick else ''} ONLY={'/'.join(run.parts)}"


def all_runs(only: Sequence[str], quick: bool) -> list[Run]:
    """Return the runs in order; each of ``only`` names some by parts, such as ``ag_news/default/1``, in any order.

    :raises ValueError: one of ``only`` names none.
    """
    runs = list(_every_run(quick))
    for wanted in only:
        if not any(_matches(run, wanted) for run in runs):
            raise ValueError(f"no run is called {wanted!r}; --list shows them all")
    return [run for run in runs if not only or any(_matches(run, wanted) for wanted in only)]


def missing_data(runs: Sequence[Run], data: Path | None) -> list[str]:
    """Names of tasks whose data is not at hand."""
    return list(dict.fromkeys(run.task.name for run in runs if not available(run.task, data)))


def population_of(run: Run, files: TaskFiles) -> Population:
    """Return the devices of a run; another seed divides the rows in another way."""
    seed = run.seed - 1
    if run.population == "iid":
        return Population(devices=files.devices, seed=seed)
    if run.population == "user":
        return Population(devices=len(set(files.users)), seed=seed, partition="user")
    match = re.fullmatch(r"dirichlet-([\d.]+)", run.population)
    assert match is not None, run.population
    return Population(devices=files.devices, seed=seed, partition="dirichlet", alpha=float(match[1]))


def check_recipe(kept: Curve, recipe: Mapping[str, Any], folder: Path) -> None:
    """Check that a stored run has this recipe.

    :raises ValueError: it has another one.
    """
    if kept.made["recipe"] != recipe:
        raise ValueError(f"its recipe has changed since it began; delete {folder} to run it anew")


def _every_run(quick: bool) -> Iterator[Run]:
    for method in METHODS.values():
        where = method.where
        if quick:
            where = (*_QUICK_WHERE, _QUICK_SKEWED) if method.name == "default" else _QUICK_WHERE
        for place in where:
            task, population = place.split("/")
            for seed in range(1, (1 if quick else method.seeds) + 1):
                yield Run(TASKS[task], method, population, seed)


def _matches(run: Run, wanted: str) -> bool:
    return set(wanted.split("/")) <= set(run.parts)
