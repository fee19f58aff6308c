"""Forward gradients on a device's own rows, against the exact gradient of the same loss."""

import numpy as np
import pytest

from fwdllm_client.engine.personalise import Personalisation, personalise
from fwdllm_common.errors import BadInputError


def test_the_loss_of_the_own_rows_falls_and_the_global_weights_stay(engine, bundle, theta):
    rows, before = np.arange(6), theta.copy()
    losses = [engine.evaluate(theta, rows).loss]
    for found in personalise(
        engine, bundle.manifest.layout, theta, rows, Personalisation(rounds=15, learning_rate=0.05)
    ):
        losses.append(engine.evaluate(found, rows).loss)
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_array_equal(theta, before)


def test_only_the_named_block_moves(engine, bundle, theta):
    layout = bundle.manifest.layout
    first, *_ = layout.blocks
    *_, found = personalise(engine, layout, theta, np.arange(6), Personalisation(rounds=2, block=first))
    moved = np.flatnonzero(found != theta)
    assert len(moved) > 0
    assert {name for name, block in layout.blocks.items() if any(block.start <= at < block.stop for at in moved)} == {
        first
    }


def test_a_step_is_the_sign_of_the_exact_gradient(engine, bundle, theta):
    """Adam's first step is the rate times the gradient's sign; central differences along coordinates give it too."""
    layout, rows = bundle.manifest.layout, np.arange(6)
    block = list(layout.blocks.values())[-1]
    (found,) = personalise(engine, layout, theta, rows, Personalisation(rounds=1, learning_rate=0.01))
    step = 0.02
    gradient = np.empty(block.size)
    for at in range(block.size):
        sides = []
        for sign in (1, -1):
            moved = theta.copy()
            moved[block.start + at] += sign * step
            sides.append(engine.evaluate(moved, rows).loss)
        gradient[at] = (sides[0] - sides[1]) / (2 * step)
    clear = np.abs(gradient) > 0.05 * np.abs(gradient).max()
    assert clear.sum() >= 3
    np.testing.assert_array_equal(np.sign(theta - found)[block.slice][clear], np.sign(gradient)[clear])


def test_no_such_block_and_a_rate_that_diverges(engine, bundle, theta):
    layout = bundle.manifest.layout
    with pytest.raises(BadInputError, match="unknown block 'nothing'"):
        list(personalise(engine, layout, theta, np.arange(6), Personalisation(block="nothing")))
    with pytest.raises(BadInputError, match=r"round 2: .*try a --learning-rate below 1e[+]38"):
        list(personalise(engine, layout, theta, np.arange(6), Personalisation(learning_rate=1e38)))
