"""Accuracy at each budget, by simulation, and how well an attacker tells training rows from others."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.convergence.jobs import job_of, to_toml
from benchmarks.convergence.methods import Method
from benchmarks.convergence.tasks import TaskFiles
from fwdllm_client.data.dataset import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.simulation import Simulation

EPSILONS = (inf, 8.0, 4.0, 2.0, 1.0)
TASKS = ("ag_news", "clinc150")
DEVICES = (100, 1000)
DELTA = 1e-5
_QUICK_ROUNDS, _QUICK_DEVICES, _QUICK_ROWS = 2, 10, 60


@dataclass(frozen=True)
class Recipe:
    """What a fleet of some size does, whatever the budget: rounds, devices of each, rounds and rows of a device."""

    rounds: int
    cohort: int
    rounds_per_device: int
    rows_per_device: int


RECIPES = {100: Recipe(12, 100, 12, 40), 1000: Recipe(40, 250, 10, 15)}
CLIPS: Mapping[str, float] = {"ag_news": 1.0, "clinc150": 0.5}
"""About the norm of a device's gradient in the first rounds."""
POOLING: Mapping[str, str] = {"ag_news": "mean", "clinc150": "layer-means"}
"""Fewer weights need less noise: 1,540 of the means of the last layer, and of 150 intents the projected features."""
ROWS = 1000
"""Rows of either kind, members and others, that membership is guessed of."""


@dataclass(frozen=True)
class Run:
    """One cell of the table."""

    task: str
    devices: int
    epsilon: float
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task}.{self.devices}.{self.epsilon:g}.{self.seed}"


def all_runs(seeds: int, tasks: Sequence[str] = TASKS, devices: Sequence[int] = DEVICES) -> list[Run]:
    """Return every cell with the first seed, small fleets first, then every cell with the next."""
    return [
        Run(task, number, epsilon, seed)
        for seed in range(1, seeds + 1)
        for number in devices
        for task in tasks
        for epsilon in EPSILONS
    ]


def result_of(run: Run, files: TaskFiles, folder: Path, *, quick: bool, threads: int) -> Mapping[str, Any]:
    """Accuracy on the test rows after the last round, and the attack's; made once and kept in ``folder``."""
    kept = folder / f"{run.name}.json"
    if not kept.exists():
        place, model = folder / run.name, JobFolder(folder / f"model.{run.task}.{run.seed}")
        most = RECIPES[run.devices].rows_per_device
        devices = _QUICK_DEVICES if quick else run.devices
        population = Population(devices=devices, seed=run.seed, rows_per_device=most)
        job, source = to_toml(_job(run, files, quick=quick)), DataSource(files.training)
        known = model if model.path.exists() else None
        with Simulation(job, files.folder, source, population, place, None, threads, known) as simulation:
            points = simulation.run(lambda _point: None)
            found = {
                "accuracy": points[-1].accuracy,
                "rounds": simulation.outcome.rounds_committed,
                "trainable": len(simulation.theta),
                "membership_auc": _membership(simulation, files, threads, _QUICK_ROWS if quick else ROWS),
            }
        shutil.rmtree(model.path, ignore_errors=True)
        (place / "model").rename(model.path)  # with what devices cache of it: most of the time
        kept.write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(place)
    result: Mapping[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def _job(run: Run, files: TaskFiles, *, quick: bool) -> dict[str, Any]:
    recipe = RECIPES[run.devices]
    rounds = _QUICK_ROUNDS if quick else recipe.rounds
    cohort = _QUICK_DEVICES if quick else recipe.cohort
    changes: dict[str, Any] = {
        "model.pooling": POOLING[run.task],
        "rounds.count": rounds,
        "rounds.min_devices": cohort,
        "rounds.max_devices": cohort,
        "rounds.evaluate_every": 0,
        "optimizer.weight_decay": 0.0,
        "robust.clip": 0,
    }
    if run.epsilon < inf:
        changes |= {
            "privacy.epsilon": run.epsilon,
            "privacy.delta": DELTA,
            "privacy.clip": CLIPS[run.task],
            "privacy.rounds_per_device": rounds if quick else recipe.rounds_per_device,
        }
    return job_of(Method("privacy", "default", changes), files, run.seed, files.curve.name)


def _membership(simulation: Simulation, files: TaskFiles, threads: int, rows: int) -> float:
    """Return the area under the curve of an attacker who takes rows of small loss for training rows; chance is 0.5."""
    members, others = (_losses(simulation, path, threads, rows) for path in (files.training, files.test))
    less = np.searchsorted(np.sort(others), members, side="left")
    at_most = np.searchsorted(np.sort(others), members, side="right")
    return float(np.mean(1 - (less + at_most) / (2 * len(others))))


def _losses(simulation: Simulation, path: Path, threads: int, rows: int) -> NDArray[np.float64]:
    bundle, manifest = simulation.bundle.bundle, simulation.manifest
    dataset = Dataset.load(DataSource(path), bundle / manifest.tokenizer.name, manifest)
    chosen = np.arange(min(rows, len(dataset)))
    with path.open(encoding="utf-8", newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    cache = simulation.bundle.path / "cache" / path.stem
    with Engine(bundle, manifest, dataset, cache, threads, cache_limit_bytes=1 << 30) as engine:
        said = engine.predict(simulation.theta, chosen)
    own = [each.probabilities[manifest.labels.index(labels[row])] for row, each in zip(chosen, said, strict=True)]
    return -np.log(np.maximum(np.array(own, dtype=np.float64), 1e-30))
