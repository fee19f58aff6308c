import numpy as np
import pytest
from common.runs import DISTRIBUTIONS, KINDS, initial_state, round_of, seeds, uint64, update
from hypothesis import given
from hypothesis import strategies as st

from fwdllm.v1 import ledger_pb2
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.packing import packed
from fwdllm_common.protocol import ORTHOGONAL_GENERATOR_VERSION

int64 = st.integers(-(2**63), 2**63 - 1)
updates = st.builds(
    update,
    st.text(max_size=8),
    st.lists(st.tuples(seeds, int64), min_size=1, max_size=9),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
entries = st.builds(
    LedgerEntry,
    uint64,
    st.lists(updates, max_size=3, unique_by=lambda update: update.block).map(tuple),
    st.binary(max_size=32),
)
headers = st.builds(
    RunHeader,
    st.builds(Directions, uint64, st.sampled_from(DISTRIBUTIONS)),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.builds(
        OptimizerSettings, st.sampled_from(KINDS), st.floats(0, 0.999), st.floats(0, 0.999), st.floats(1e-30, 1e30)
    ),
)


def plain(entry):
    return (
        entry.version,
        entry.theta_digest,
        [(u.block, u.seeds.tolist(), u.coefficients.tolist(), float(u.learning_rate)) for u in entry.updates],
    )


@given(entries)
def test_an_entry_makes_the_round_trip(entry):
    again = LedgerEntry.from_bytes(entry.to_bytes())
    assert plain(again) == plain(entry)
    assert again.to_bytes() == entry.to_bytes()


def test_an_entry_keeps_its_number_types():
    (first, _) = LedgerEntry.from_bytes(round_of(1).to_bytes()).updates
    assert (first.seeds.dtype, first.coefficients.dtype) == (np.dtype(np.uint64), np.dtype(np.int64))
    assert isinstance(first.learning_rate, np.float32)


@given(headers)
def test_a_header_makes_the_round_trip(header):
    assert RunHeader.from_bytes(header.to_bytes()) == header


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_header_names_its_distribution_on_the_wire(distribution):
    message = initial_state("sgd", distribution=distribution).header.to_message()
    assert ledger_pb2.Distribution.Name(message.distribution) == f"DISTRIBUTION_{distribution.upper()}"


def test_consecutive_seeds_cost_two_bytes_with_their_coefficients_apart():
    first = update("peft", [(2**63 + seed, 5) for seed in range(1000)])
    assert len(LedgerEntry(1, (first,), bytes(32)).to_bytes()) < 2100


def test_packed_updates_take_two_bytes_a_scalar_and_come_back():
    seeds = np.concatenate([np.arange(1000), 4096 + np.arange(500)]).astype(np.uint64) + np.uint64(1 << 32)
    coefficients = packed(np.random.default_rng(0).integers(-(2**30), 2**30, 1500)).integers()
    written = BlockUpdate("head", seeds, coefficients, np.float32(0.1), packed=True)
    data = LedgerEntry(1, (written,), b"").to_bytes()
    assert len(data) < 2 * 1500 + 100
    (found,) = LedgerEntry.from_bytes(data).updates
    assert found.packed
    assert (found.seeds == seeds).all()
    assert (found.coefficients == coefficients).all()


@pytest.mark.parametrize(
    "changes",
    [{"shift": 49}, {"mantissas": b"\0" * 3}, {"mantissas": b"\0" * 6}, {"spans": [{"first": 1, "count": 1 << 21}]}],
)
def test_packed_updates_that_do_not_fit_together_are_refused(changes):
    fields = {"block": "head", "spans": [{"first": 1, "count": 2}], "mantissas": b"\0" * 4, "shift": 1, **changes}
    with pytest.raises(BadInputError, match="ledger"):
        BlockUpdate.from_message(ledger_pb2.BlockUpdate(**fields))


def test_only_runs_that_need_it_are_of_generator_2():
    plain = initial_state("adam").header
    for newer in (initial_state("adam", orthogonal=("head",)).header, initial_state("adam", weight_decay=0.1).header):
        assert (plain.generator_version, newer.generator_version) == (1, 2)
        assert RunHeader.from_bytes(newer.to_bytes()) == newer


def test_a_run_of_another_generator_is_refused():
    header = ledger_pb2.RunHeader.FromString(initial_state("sgd").header.to_bytes())
    header.generator_version = ORTHOGONAL_GENERATOR_VERSION + 1
    with pytest.raises(BadInputError, match="generator 3, this program has 2"):
        RunHeader.from_bytes(header.SerializeToString())


@pytest.mark.parametrize("kind", [0, 99])
def test_an_optimiser_that_this_program_does_not_know_is_refused(kind):
    header = ledger_pb2.RunHeader.FromString(initial_state("sgd").header.to_bytes())
    header.optimizer.kind = kind
    with pytest.raises(BadInputError, match="unknown optimiser"):
        RunHeader.from_bytes(header.SerializeToString())


@pytest.mark.parametrize("distribution", [0, 99])
def test_a_distribution_that_this_program_does_not_know_is_refused(distribution):
    header = ledger_pb2.RunHeader.FromString(initial_state("sgd").header.to_bytes())
    header.distribution = distribution
    with pytest.raises(BadInputError, match="unknown distribution of directions; update fwdllm"):
        RunHeader.from_bytes(header.SerializeToString())


@pytest.mark.parametrize("count", [0, MAX_DIRECTIONS + 1])
def test_an_update_with_no_or_too_many_directions_is_refused(count):
    with pytest.raises(BadInputError, match=f"not {count}"):
        BlockUpdate("peft", np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=np.int64), np.float32(1))


def test_a_seed_without_coefficient_is_refused():
    with pytest.raises(BadInputError, match="differ in number"):
        BlockUpdate("peft", np.zeros(2, dtype=np.uint64), np.zeros(3, dtype=np.int64), np.float32(1))


@pytest.mark.parametrize("rate", [np.nan, np.inf])
def test_a_learning_rate_that_is_not_finite_is_refused(rate):
    with pytest.raises(BadInputError, match="learning rate"):
        update("peft", [(1, 1)], rate)


def test_two_updates_of_one_block_are_refused():
    with pytest.raises(BadInputError, match="block 'peft' occurs twice"):
        LedgerEntry(1, (update("peft", [(1, 1)]), update("peft", [(2, 1)])), b"")
