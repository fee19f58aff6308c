import copy
import hashlib
from dataclasses import replace
from itertools import pairwise

import common.reference as reference
import numpy as np
import pytest
from common.runs import (
    DISTRIBUTIONS,
    KINDS,
    LAYOUT,
    RUN_KEY,
    directions,
    initial_state,
    initial_theta,
    round_of,
    update,
)
from hypothesis import given
from hypothesis import strategies as st

from fwdllm.v1 import ledger_pb2
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.optimizers import OptimizerState, step
from fwdllm_common.replay import ModelState, theta_digest

kinds = st.sampled_from(KINDS)
distributions = st.sampled_from(DISTRIBUTIONS)
rounds = st.lists(directions, min_size=1, max_size=3)
SMALL = Layout((TensorSpec("a", (5, 3), "body"), TensorSpec("b", (4,), "head")))


def entry_of(version, directions, layout=LAYOUT):
    return LedgerEntry(version, tuple(update(block, directions) for block in layout.blocks), b"")


def replayed(kind, rounds, distribution="rademacher"):
    state = initial_state(kind, distribution=distribution)
    for version, drawn in enumerate(rounds, start=1):
        state.advance(entry_of(version, drawn))
    return state


@given(kinds, distributions, rounds, st.randoms(use_true_random=False))
def test_theta_does_not_depend_on_the_order_of_the_directions(kind, distribution, rounds, random):
    shuffled = [random.sample(drawn, len(drawn)) for drawn in rounds]
    assert replayed(kind, shuffled, distribution).to_bytes() == replayed(kind, rounds, distribution).to_bytes()


@given(kinds, distributions, rounds, st.data())
def test_theta_does_not_depend_on_the_batches_in_which_directions_are_summed(kind, distribution, rounds, data):
    expected = replayed(kind, rounds, distribution)
    unit = {"rademacher": 1, "gaussian": 4}[distribution]
    header, theta = expected.header, initial_theta()
    states = {name: OptimizerState.zeros(header.optimizer, block.size) for name, block in LAYOUT.blocks.items()}
    for drawn in rounds:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(drawn)))) | {0, len(drawn)})
        for block in LAYOUT.blocks.values():
            batches = [update(block.name, drawn[a:b]) for a, b in pairwise(cuts)]
            total = sum(
                header.directions.weighted_sum(batch.seeds, batch.coefficients, block.start, block.stop)
                for batch in batches
            )
            gradient = (total / np.float64(len(drawn) * SCALE * unit)).astype(np.float32)
            step(header.optimizer, states[block.name], theta[block.slice], gradient, np.float32(0.01))
    assert theta.tobytes() == expected.theta.tobytes()


@given(kinds, distributions, rounds)
def test_replay_is_bit_for_bit_that_of_the_specification(kind, distribution, rounds):
    state = initial_state(kind, SMALL, distribution)
    settings = state.header.optimizer
    theta = state.theta.tolist()
    optimizers = {
        name: reference.Optimizer(kind, settings.beta1, settings.beta2, settings.epsilon, block.size)
        for name, block in SMALL.blocks.items()
    }
    for version, drawn in enumerate(rounds, start=1):
        state.advance(entry_of(version, drawn, SMALL))
        for name, block in SMALL.blocks.items():
            seeds, coefficients = zip(*drawn, strict=True)
            gradient = reference.forward_gradient(distribution, RUN_KEY, seeds, coefficients, block.start, block.stop)
            theta[block.slice] = optimizers[name].step(theta[block.slice], gradient, reference.float32(0.01))
        assert state.theta.tolist() == theta


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pause", [0, 1, 3])
def test_a_snapshot_continues_as_if_uninterrupted(kind, pause):
    whole, state = initial_state(kind), initial_state(kind)
    for version in range(1, 6):
        if version == pause + 1:
            state = ModelState.from_bytes(state.header, state.layout, state.to_bytes())
        whole.advance(round_of(version))
        state.advance(round_of(version))
    assert state.to_bytes() == whole.to_bytes()


def test_a_restored_state_shares_nothing_with_its_bytes():
    state = initial_state("adam")
    data = state.to_bytes()
    ModelState.from_bytes(state.header, LAYOUT, data).advance(round_of(1))
    assert data == state.to_bytes()


def test_the_initial_state_does_not_alias_the_vector_it_was_made_from():
    theta = initial_theta()
    state = ModelState.initial(initial_state("sgd").header, LAYOUT, theta)
    state.advance(round_of(1))
    assert (theta == initial_theta()).all()


def test_a_block_without_an_update_keeps_its_weights_and_its_moments():
    state = initial_state("adam")
    head, before = LAYOUT.block("head"), copy.deepcopy(state)
    state.advance(LedgerEntry(1, (update("peft", [(1, SCALE)]),), b""))
    assert (state.theta[head.slice] == before.theta[head.slice]).all()
    assert state.optimizer["head"].decay1 == 1
    assert not state.optimizer["head"].first.any()


def test_a_round_without_updates_is_a_version_with_the_same_theta():
    state = initial_state("momentum")
    before = state.digest
    assert state.advance(LedgerEntry(1, (), b"")).theta_digest == before
    assert state.version == 1


def test_advance_returns_the_entry_with_the_hash_of_the_new_theta():
    state = initial_state("sgd")
    done = state.advance(round_of(1))
    assert done.theta_digest == theta_digest(state.theta)
    assert initial_state("sgd").advance(done) == done


@pytest.mark.parametrize("version", [0, 1, 3, 2**63])
def test_an_entry_that_is_not_the_next_is_refused_and_changes_nothing(version):
    state = initial_state("adam")
    state.advance(round_of(1))
    before = state.to_bytes()
    with pytest.raises(BadInputError, match=f"entry {version} cannot follow version 1"):
        state.advance(replace(round_of(2), version=version))
    assert state.to_bytes() == before


def test_an_entry_with_an_unknown_block_is_refused_before_any_block_is_changed():
    state = initial_state("adam")
    before = state.to_bytes()
    with pytest.raises(BadInputError, match="unknown block 'neck'; this model has peft, head"):
        state.advance(LedgerEntry(1, (update("peft", [(1, SCALE)]), update("neck", [(1, SCALE)])), b""))
    assert state.to_bytes() == before


def test_an_entry_whose_hash_is_not_that_of_the_new_theta_is_refused_and_changes_nothing():
    state = initial_state("adam")
    before = state.to_bytes()
    with pytest.raises(IntegrityError, match="version 1"):
        state.advance(round_of(1).with_digest(bytes(32)))
    assert state.to_bytes() == before


def test_a_shallow_copy_goes_its_own_way():
    state = initial_state("adam")
    state.advance(round_of(1))
    before = state.to_bytes()
    copy.copy(state).advance(round_of(2))
    assert state.to_bytes() == before


def test_theta_of_another_run_is_refused():
    header = initial_state("sgd").header
    with pytest.raises(IntegrityError, match="initial weights"):
        ModelState.initial(header, LAYOUT, initial_theta() + 1)


def test_layout_of_another_run_is_refused():
    header = initial_state("sgd").header
    with pytest.raises(IntegrityError, match="layout"):
        ModelState.initial(header, SMALL, initial_theta())


def test_a_snapshot_of_another_layout_is_refused():
    state = initial_state("adam")
    with pytest.raises(BadInputError, match="blocks are not this model's"):
        ModelState.from_bytes(state.header, SMALL, state.to_bytes())


def test_a_snapshot_of_another_optimiser_is_refused():
    with pytest.raises(BadInputError, match="a vector has 0 bytes"):
        ModelState.from_bytes(initial_state("adam").header, LAYOUT, initial_state("sgd").to_bytes())


def test_a_snapshot_with_two_states_of_one_block_is_refused():
    state = initial_state("adam")
    message = ledger_pb2.Snapshot.FromString(state.to_bytes())
    message.optimizer.append(message.optimizer[0])
    with pytest.raises(BadInputError, match="blocks are not this model's"):
        ModelState.from_bytes(state.header, LAYOUT, message.SerializeToString())


def test_hash_of_theta_is_that_of_its_little_endian_bytes():
    expected = hashlib.sha256(bytes.fromhex("0000803f000000c0")).digest()
    assert theta_digest(np.array([1, -2], dtype="<f4")) == expected
    assert theta_digest(np.array([1, -2], dtype=">f4")) == expected
