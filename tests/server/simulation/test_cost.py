"""Simulated passes are the passes that the engine counts on a device of its own."""

from __future__ import annotations

import numpy as np
import pytest
from client.engine.tiny_bundle import make_theta

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions
from fwdllm_server.simulation.cost import PassCounter

KEY = 99
ROWS = {"one": np.arange(0, 25), "other": np.arange(25, 60)}


@pytest.fixture
def engines(bundle, dataset, tmp_path):
    """An engine with a cache of its own for each device."""
    made = {name: Engine(bundle.folder, bundle.manifest, dataset, tmp_path / name, threads=1) for name in ROWS}
    yield made
    for engine in made.values():
        engine.close()


def task(block: str, first: int, count: int, batch_size: int, central: bool = False) -> DirectionTask:
    return DirectionTask(block, np.arange(first, first + count, dtype=np.uint64), 0.01, batch_size, central)


def passes(engine: Engine, theta, work: DirectionTask, rows) -> float:
    before = engine.example_passes
    for _ in engine.derivatives(theta, Directions(KEY, "rademacher"), work, rows):
        pass
    return engine.example_passes - before


@pytest.mark.parametrize("restarts", [False, True])
def test_tasks_evaluations_and_features_cost_what_the_engine_counts(bundle, dataset, engines, restarts):
    """θ changes in the head, then below it; rows come back, so that some are cached and some are not."""
    counter = PassCounter(bundle.manifest, dataset, KEY)
    theta = make_theta(bundle.manifest)
    other_head, other_peft = theta.copy(), theta.copy()
    other_head[-1] += 1
    other_peft[0] += 1
    for at in (theta, theta, other_head, other_peft, theta):
        for name, engine in engines.items():
            if restarts:
                restarted = PassCounter(bundle.manifest, dataset, KEY)
                restarted.restore(counter.to_bytes())
                counter = restarted
            for work in (task("peft", 5, 3, 4), task("head", 1 << 24, 6, 8, central=True), task("head", 7, 2, 100)):
                before, each = counter.task(work, at, ROWS[name])
                assert before + len(work.seeds) * each == pytest.approx(passes(engine, at, work, ROWS[name]))
            before = engine.example_passes
            engine.evaluate(at, ROWS[name][:7])
            assert counter.evaluation(at, ROWS[name][:7]) == pytest.approx(engine.example_passes - before)
            before = engine.example_passes
            engine.class_sums(at, ROWS[name])
            assert counter.features(at, ROWS[name]) == pytest.approx(engine.example_passes - before)
