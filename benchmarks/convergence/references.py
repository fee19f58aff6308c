"""What forward gradients are held against: probes on frozen features, and LoRA trained by backpropagation.

A run is minutes long and begins anew when it is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from benchmarks.convergence import backprop, probes
from benchmarks.convergence.curves import Curve, Final, Point
from benchmarks.convergence.methods import Reference
from benchmarks.convergence.progress import RESULT
from benchmarks.convergence.runs import Run, Settings, Show, check_recipe, population_of
from benchmarks.convergence.settings import settings_of
from benchmarks.convergence.tasks import TaskFiles

_MEASURES: Mapping[str, Callable[..., Iterator[Point | Final]]] = {
    "ridge": probes.ridge,
    "logistic": probes.logistic,
    "sgd-probe": probes.sgd,
    "fedsgd": backprop.fedsgd,
    "fedavg": backprop.fedavg,
}


def refer(run: Run, files: TaskFiles, settings: Settings, show: Show) -> Curve:
    """Measure a reference, or look it up.

    :raises ValueError: its recipe has changed since it was measured.
    """
    assert isinstance(run.method, Reference)
    recipe = settings.recipe(run, files)
    folder = settings.folder(run)
    if (folder / RESULT).exists():
        kept = Curve.load(folder / RESULT)
        check_recipe(kept, recipe, folder)
        return kept
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(run.seed)
    own = settings_of(run.method.kind, {**run.method.settings, **settings.changes}, settings.quick)
    population = population_of(run, files)
    measured_on = "validation" if settings.tuning else "curve"
    points: list[Point] = []
    final, began = None, time.process_time()
    for found in _MEASURES[run.method.kind](files, population, run.seed, own, measured_on):
        if isinstance(found, Final):
            final = found
            break
        seconds, cpu_seconds = found.example_passes / population.passes_per_s, time.process_time() - began
        points.append(replace(found, device_seconds=seconds, cpu_seconds=round(cpu_seconds, 2)))
        show(points[-1])
    begun = settings.begun(run, files, rounds=points[-1].version, devices=population.devices)
    curve = replace(begun, points=tuple(points), complete=True, final=None if settings.tuning else final)
    folder.mkdir(parents=True, exist_ok=True)
    curve.save(folder / RESULT)
    return curve
