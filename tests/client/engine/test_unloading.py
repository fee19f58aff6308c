"""Which stages are in memory, and when."""

import weakref
from contextlib import contextmanager

import numpy as np
import pytest

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.sessions import Cpu
from fwdllm_common.directions import Directions

ROWS = np.arange(40)
PREFIX, PEFT, HEAD = "prefix.onnx", "peft.onnx", "head.onnx"


class Watching(Cpu):
    """Knows which sessions are alive, and which ever were together."""

    def __init__(self):
        self._sessions = weakref.WeakValueDictionary()
        self.opened = []
        self.together = set()

    @property
    def loaded(self):
        return {name for _, name in self._sessions}

    def open(self, folder, stage, threads):
        session = super().open(folder, stage, threads)
        self.opened.append(stage.graph.name)
        self._sessions[len(self.opened), stage.graph.name] = session
        self.together.add(frozenset(self.loaded))
        return session


@pytest.fixture
def watching():
    return Watching()


@pytest.fixture
def opened(bundle, dataset, tmp_path, watching):
    @contextmanager
    def open_engine(limit=1 << 20):
        folder = tmp_path / "cache"
        with Engine(bundle.folder, bundle.manifest, dataset, folder, 1, limit, watching) as engine:
            yield engine

    return open_engine


def task(block, seed=0):
    return DirectionTask(block, np.arange(seed, seed + 3, dtype=np.uint64), 1e-3, 8)


def measure(engine, theta, task):
    return np.concatenate([values for _, values in engine.derivatives(theta, Directions(3), task, ROWS)])


def test_the_prefix_is_gone_before_a_direction_runs(opened, theta, watching):
    with opened() as engine:
        next(engine.derivatives(theta, Directions(3), task("peft"), ROWS))
        assert watching.loaded == {PEFT, HEAD}
        measure(engine, theta, task("head", 100))
        assert watching.loaded == {HEAD}
    assert watching.together == {frozenset(names) for names in ({PREFIX}, {PEFT}, {PEFT, HEAD}, {HEAD})}


def test_evaluation_and_class_sums_hold_one_stage_at_a_time(opened, theta, watching):
    with opened() as engine:
        engine.evaluate(theta, ROWS[:20])
        engine.class_sums(theta, ROWS)
    assert watching.together == {frozenset([name]) for name in (PREFIX, PEFT, HEAD)}


def test_the_prefix_comes_back_for_a_row_that_is_missing_and_only_then(opened, theta, watching):
    with opened() as engine:
        measure(engine, theta, task("peft"))
        measure(engine, theta, task("peft"))
        assert watching.opened.count(PREFIX) == 1
        engine.evaluate(theta, ROWS)
        assert watching.opened.count(PREFIX) == 2
        measure(engine, theta, task("peft", 100))
        assert watching.opened.count(PREFIX) == 2


@pytest.mark.parametrize("limit", [0, 3000])
def test_rows_without_room_bring_the_prefix_back_once_a_task(opened, theta, watching, limit):
    with opened(limit) as engine:
        for seed in (0, 100, 200):
            watching.opened.clear()
            measure(engine, theta, task("peft", seed))
            assert watching.opened.count(PREFIX) <= 2
            assert watching.loaded == {PEFT, HEAD}


def test_an_unloaded_engine_works_again(opened, theta, watching):
    with opened() as engine:
        expected = measure(engine, theta, task("peft"))
        engine.unload()
        assert watching.loaded == set()
        np.testing.assert_array_equal(measure(engine, theta, task("peft")), expected)
    assert watching.loaded == set()
