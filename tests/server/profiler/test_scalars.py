import numpy as np
import pytest

from fwdllm_client.engine import DirectionTask
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.fixed_point import SCALE
from fwdllm_server.profiler import scalars
from fwdllm_server.profiler.scalars import measure_scalars

ROWS = np.arange(3)


class ScriptedEngine:
    """Its scalars are the seeds; a second for each, and nine more when it is used for the first time."""

    def __init__(self, value=float):
        self.example_passes = 0.0
        self.now = 0.0
        self._value = value

    def derivatives(self, theta, directions, task, rows):
        self.now += 9 if self.example_passes == 0 else 0
        for first in range(0, len(task.seeds), 3):
            seeds = task.seeds[first : first + 3]
            self.now += len(seeds)
            self.example_passes += len(rows) * len(seeds)
            yield first, np.array([self._value(seed) for seed in seeds])


def measured(engine, monkeypatch, tick=lambda count: None):
    monkeypatch.setattr(scalars.time, "perf_counter", lambda: engine.now)
    task = DirectionTask("peft", np.arange(18, dtype=np.uint64), 1e-3, batch_size=3)
    return measure_scalars(engine, np.zeros(5, np.float32), Directions(1), task, ROWS, tick)


def test_each_direction_once_and_its_cost_without_the_beginning(monkeypatch):
    ticks = []
    found = measured(ScriptedEngine(), monkeypatch, ticks.append)

    np.testing.assert_array_equal(found.coefficients, np.arange(18) * SCALE)
    np.testing.assert_array_equal(found.seeds, np.arange(18))
    assert (found.seconds_each, found.passes_each, sum(ticks)) == (1.0, 3.0, 18)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_scalar_that_no_round_would_take(monkeypatch, value):
    with pytest.raises(BadInputError, match=r"a directional derivative is .*; change \[perturbation\] epsilon"):
        measured(ScriptedEngine(lambda seed: value), monkeypatch)
