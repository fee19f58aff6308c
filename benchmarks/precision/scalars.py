"""Scalars of all-MiniLM-L6-v2 on BBC News by precision and ε, against the slopes that backpropagation finds in float32.

    python -m benchmarks.precision.scalars

prints, for each block, precision and ε, the correlation of the scalars with the slopes vᵀ∇L of the float32 model, their
error over these slopes, and their error over the slopes of the quantised model itself, from central differences.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.materials import minilm_folder
from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.directions import Directions
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_server.cli.demo.bbc_news import TOPICS, load, split, write_csv
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.precision import Precision
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.model.trainable import initial_theta
from fwdllm_server.profiler.true_gradient import true_gradient

PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "int4")
EPSILONS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
OWN_EPSILON = 1e-3
MAX_TOKENS = 64
Scalars = NDArray[np.float64]


def theta_under_way(theta: Float32Vector, directions: Directions) -> Float32Vector:
    """θ moved a little everywhere, as in the midst of a run: at a zero head nothing below it has a slope."""
    moved: Float32Vector = directions.perturb(theta, np.array([1], dtype=np.uint64), 0, 0.03)[0]
    return moved


def measure(engine: Engine, rows: int, theta: Float32Vector, directions: Directions, task: DirectionTask) -> Scalars:
    """Return the scalars of a task on the first ``rows`` rows, float64 ``[K]``."""
    return np.concatenate([values for _, values in engine.derivatives(theta, directions, task, np.arange(rows))])


def true_slopes(gradient: Float32Vector, span: Block, directions: Directions, seeds: NDArray[np.uint64]) -> Scalars:
    """Return vᵀ∇L of the directions in one block, float64 ``[K]``."""
    signs = directions.perturb(np.zeros(span.size, dtype=np.float32), seeds, span.start, 1.0)
    return signs.astype(np.float64) @ gradient[span.slice].astype(np.float64)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directions", type=int, default=48)
    parser.add_argument("--rows", type=int, default=16)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the exporter's account of what it does
    with tempfile.TemporaryDirectory() as name:
        report(Path(name), arguments.directions, arguments.rows)


def report(folder: Path, count: int, rows: int) -> None:
    """Print the table; ``folder`` is for the bundles."""
    held_out, _ = split(load(), 1, 1.0, seed=0)
    write_csv(folder / "rows.csv", held_out[:rows])
    source = str(minilm_folder())
    tokenizer = load_tokenizer_file(source)
    spec = PeftSpec(rank=4, targets=["query", "value"], layers=[-2, -1])
    model = apply_peft(load_base(source, TOPICS, "mean"), spec, 1)
    bundle = folder / "float32"
    manifest = export_bundle(model, ModelInputs(tokenizer, MAX_TOKENS, TOPICS), bundle)
    dataset = Dataset.load(DataSource(folder / "rows.csv"), bundle / manifest.tokenizer.name, manifest)
    directions = Directions(7, "rademacher")
    theta = theta_under_way(initial_theta(model, manifest.layout), directions)
    gradient = true_gradient(model, manifest.layout, theta, dataset, np.arange(rows))
    seeds = np.arange(100, 100 + count, dtype=np.uint64)
    print(f"{'block':5} {'precision':9} {'epsilon':>8} {'correlation':>11} {'error':>7} {'to own':>7}")
    for precision in PRECISIONS:
        target = folder / precision
        if precision != "float32":
            shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("cache"))
        small = quantise_bundle(target, manifest, precision)
        with Engine(target, small, dataset, target / "cache", threads=1) as engine:
            for name, span in manifest.layout.blocks.items():
                task = DirectionTask(name, seeds, OWN_EPSILON, rows, central=True)
                own = measure(engine, rows, theta, directions, task)
                slopes = true_slopes(gradient, span, directions, seeds)
                for epsilon in EPSILONS:
                    found = measure(engine, rows, theta, directions, replace(task, epsilon=epsilon, central=False))
                    correlation = np.corrcoef(found, slopes)[0, 1]
                    errors = f"{_error(found, slopes):7.4f} {_error(found, own):7.4f}"
                    print(f"{name:5} {precision:9} {epsilon:8.0e} {correlation:11.4f} {errors}", flush=True)


def _error(found: Scalars, expected: Scalars) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()
