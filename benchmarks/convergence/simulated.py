"""A preset on simulated devices: the agent's and the coordinator's own code, interrupted and taken up at will."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.convergence.curves import Curve, Final
from benchmarks.convergence.jobs import preset_digest, to_toml
from benchmarks.convergence.methods import Method
from benchmarks.convergence.progress import BEGUN, RESULT, SIMULATION, Clock, points_of, read
from benchmarks.convergence.runs import Run, Settings, Show, check_recipe, population_of
from benchmarks.convergence.tasks import TaskFiles
from fwdllm_client.data.dataset import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import JobFailedError
from fwdllm_server.simulation.simulation import Simulation


def simulate(run: Run, files: TaskFiles, settings: Settings, show: Show) -> Curve:
    """Run to the last round or to the method's limit of example-passes.

    :raises ValueError: the recipe has changed since the run began.
    """
    assert isinstance(run.method, Method)
    folder = settings.folder(run)
    limit = settings.max_passes or run.method.max_passes.get(run.task.name, float("inf"))
    kept = read(folder)
    if kept is not None:
        check_recipe(kept, settings.recipe(run, files), folder)
        if kept.complete or kept.note or (kept.points and kept.last.example_passes >= limit):
            return kept
    curve = _check_cancelled(run, files, settings, limit, show)
    if curve.complete or curve.note:
        curve.save(folder / RESULT)
        shutil.rmtree(folder / SIMULATION)  # some hundred megabytes of model and cache
    return curve


def _check_cancelled(run: Run, files: TaskFiles, settings: Settings, limit: float, show: Show) -> Curve:
    folder = settings.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    job, source, population = to_toml(settings.job(run, files)), DataSource(files.training), population_of(run, files)
    users = files.users if run.population == "user" else None
    place = folder / SIMULATION
    with Simulation(job, files.folder, source, population, place, users, settings.threads) as simulation:
        if not (folder / BEGUN).exists():
            _begin(run, files, settings, simulation)
        clock = Clock(folder)

        def report(point: Any) -> None:
            clock.note(point.version)
            show(points_of([asdict(point)], clock)[0])
            if point.example_passes >= limit and point.version < simulation.spec.rounds.count:
                raise asyncio.CancelledError  # as Ctrl-C does: the simulation keeps what it has done

        note, final = "", None
        try:
            simulation.run(report)
            final = None if settings.tuning else _evaluate(simulation, files, settings)
        except asyncio.CancelledError:
            pass
        except JobFailedError as error:
            note = str(error)
        finally:
            clock.save()
        points = points_of([asdict(point) for point in simulation.points], clock)
        complete = simulation.state.version == simulation.spec.rounds.count
    return replace(Curve.load(folder / BEGUN), points=points, complete=complete, final=final, note=note)


def _begin(run: Run, files: TaskFiles, settings: Settings, simulation: Simulation) -> None:
    assert isinstance(run.method, Method)
    begun = settings.begun(run, files, simulation.spec.rounds.count, len(simulation.devices))
    preset = {"preset": run.method.preset, "preset_sha256": preset_digest(run.method.preset)}
    population = population_of(run, files).model_dump()
    made = {**begun.made, **preset, "population": population, "trainable": len(simulation.theta)}
    folder = settings.folder(run)
    (folder / "job.toml").write_text(to_toml(settings.job(run, files)), encoding="utf-8")
    replace(begun, made=made).save(folder / BEGUN)


def _evaluate(simulation: Simulation, files: TaskFiles, settings: Settings) -> Final:
    """Evaluate the last version on all test rows, by the same code as the device's."""
    bundle, manifest = simulation.bundle.bundle, simulation.manifest
    dataset = Dataset.load(DataSource(files.test), bundle / manifest.tokenizer.name, manifest)
    cache = simulation.bundle.path / "cache" / "final"
    with Engine(bundle, manifest, dataset, cache, settings.threads, cache_limit_bytes=0) as engine:
        found = engine.predict(simulation.theta, np.arange(len(dataset)))
    return Final.of(manifest.labels, dataset.labels.tolist(), [each.probabilities for each in found])
