"""``examples/minimal.py`` and the package compute the same bits."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import Scalar, coefficients, forward_gradient
from fwdllm_common.fixed_point import SCALE, to_fixed_point
from fwdllm_common.layout import Block, Layout, TensorSpec
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import ModelState, theta_digest

PAGE = Path(__file__).parents[2] / "examples" / "minimal.py"
_spec = importlib.util.spec_from_file_location("minimal", PAGE)
minimal = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(minimal)

DIRECTIONS = Directions(minimal.RUN_KEY)


def test_a_seed_means_the_same_direction() -> None:
    for seed in (0, 1, 7 << 32, 2**64 - 1):
        assert DIRECTIONS.integers(seed, 0, minimal.D).tolist() == minimal.direction(seed).tolist()


def test_scalars_have_the_same_fixed_point() -> None:
    theta = np.zeros(minimal.D, dtype=np.float32)
    seeds = range(1 << 32, (1 << 32) + 8)
    base = minimal.loss(theta, 0)
    moved = DIRECTIONS.perturb(theta, np.array(seeds, dtype=np.uint64), 0, float(minimal.EPSILON))
    expected = [to_fixed_point((minimal.loss(row, 0) - base) / float(minimal.EPSILON)) for row in moved]
    assert minimal.FIXED_POINT == SCALE
    assert minimal.measure(theta, 0, seeds) == expected


def test_the_replay_of_its_ledger_gives_the_same_bits() -> None:
    theta, ledger = minimal.train()
    layout = Layout((TensorSpec("weight", (minimal.D,), "all"),))
    initial = np.zeros(minimal.D, dtype=np.float32)
    header = RunHeader(DIRECTIONS, layout.digest, theta_digest(initial), OptimizerSettings("sgd"))
    state = ModelState.initial(header, layout, initial)
    for version, (seeds, values) in enumerate(ledger, start=1):
        scalars = [
            Scalar(seed, value, device=str(index * minimal.DEVICES // len(seeds)), examples=32)
            for index, (seed, value) in enumerate(zip(seeds, values, strict=True))
        ]
        update = BlockUpdate("all", np.array(seeds, dtype=np.uint64), coefficients(scalars), minimal.LEARNING_RATE)
        gradient = forward_gradient(DIRECTIONS, update.seeds, update.coefficients, Block("all", 0, minimal.D))
        assert gradient.tobytes() == minimal.forward_gradient(seeds, values).tobytes()
        state.advance(LedgerEntry(version, (update,), b""))
    assert state.theta.tobytes() == theta.tobytes() == minimal.replay(ledger).tobytes()


def test_it_runs_with_numpy_alone() -> None:
    done = subprocess.run([sys.executable, PAGE], capture_output=True, text=True, check=True)
    assert "the replay of the ledger gives the same bits" in done.stdout
    assert "fwdllm_common" not in PAGE.read_text().partition("import numpy")[2]
