"""Which seeds discriminative perturbation sampling keeps, against cosines computed the plain way."""

from math import ceil

import common.reference as reference
import numpy as np
import pytest
from helpers.tiny_job import THETA, job_spec, run_header
from hypothesis import given, settings
from hypothesis import strategies as st

from fwdllm_common.directions import Directions
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.ledger import BlockUpdate, LedgerEntry
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import BlockPlan, Run, forward_gradient
from fwdllm_server.algorithm import sampling as sampling_module
from fwdllm_server.algorithm.sampling import nearest

LAYOUT = Layout(
    (TensorSpec("small", (3, 2), "peft"), TensorSpec("large", (5, 9), "peft"), TensorSpec("classifier", (4, 6), "head"))
)
PARTS = {"vector": [slice(0, 51)], "tensor": [slice(0, 6), slice(6, 51)]}
COUNT = 8


def cosine(first, second) -> float:
    first, second = np.array(first, dtype=np.float64), np.array(second, dtype=np.float64)
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def best(directions, candidates, keep, target, parts, absolute) -> list[int]:
    """The plain way: every candidate's mean cosine over the parts of a block that begins at 0."""
    scores = {}
    for seed in candidates:
        v = reference.integers(directions.distribution, directions.run_key, seed, 0, len(target))
        score = np.mean([cosine(v[part], target[part]) for part in parts])
        scores[seed] = abs(score) if absolute else score
    return sorted(sorted(scores, key=scores.__getitem__, reverse=True)[:keep])


# ranking


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    distribution=st.sampled_from(["rademacher", "gaussian"]),
    scope=st.sampled_from(["vector", "tensor"]),
    absolute=st.booleans(),
    first=st.integers(0, 2**60),
    count=st.integers(1, 40),
    share=st.floats(0, 1),
    draw=st.integers(0, 1000),
)
def test_the_kept_seeds_have_the_largest_cosines(distribution, scope, absolute, first, count, share, draw):
    directions, candidates, keep = Directions(draw, distribution), range(first, first + count), ceil(share * count)
    target = np.random.default_rng(draw).normal(size=51).astype(np.float32)
    found = nearest(directions, candidates, keep, target, PARTS[scope], absolute)

    assert found == best(directions, candidates, keep, target, PARTS[scope], absolute)


def test_a_block_in_the_middle_of_theta_is_compared_with_its_own_coordinates():
    directions, candidates = Directions(3), range(200)
    target = np.random.default_rng(1).normal(size=24).astype(np.float32)
    vectors = {seed: directions.vector(seed, 51, 75) for seed in candidates}
    expected = sorted(sorted(candidates, key=lambda seed: cosine(vectors[seed], target), reverse=True)[:20])

    assert nearest(directions, candidates, 20, target, [slice(51, 75)], False) == expected


def test_a_large_tensor_does_not_drown_a_small_one_only_if_tensors_are_compared():
    """A gradient that is 100 times larger in the large tensor: the whole vector's cosine does not see the small one."""
    target = np.concatenate([np.ones(6), np.full(45, 100)]).astype(np.float32)

    def mean_cosine(scope, part):
        kept = nearest(Directions(5), range(2000), 100, target, PARTS[scope], False)
        return np.mean([cosine(Directions(5).vector(seed, 0, 51)[part], target[part]) for seed in kept])

    assert abs(mean_cosine("vector", slice(0, 6))) < 0.15  # four standard errors of noise: √(1/6)/√100
    assert mean_cosine("tensor", slice(0, 6)) > 0.5


def test_signed_keeps_what_points_along_absolute_what_points_either_way():
    target = np.random.default_rng(1).normal(size=51).astype(np.float32)
    cosines = {}
    for absolute in (False, True):
        kept = nearest(Directions(5), range(1000), 100, target, PARTS["vector"], absolute)
        cosines[absolute] = np.array([cosine(Directions(5).vector(seed, 0, 51), target) for seed in kept])

    assert (cosines[False] > 0).all()
    assert 30 < (cosines[True] > 0).sum() < 70
    assert np.abs(cosines[True]).mean() > cosines[False].mean() + 0.02


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("absolute", [False, True])
def test_a_direction_that_is_zero_in_a_small_tensor_points_nowhere_in_it(absolute):
    """One in ten Gaussian directions is 0 in a tensor of one coordinate; the other tensor decides among those."""
    directions, candidates, parts = Directions(5, "gaussian"), range(400), [slice(0, 1), slice(1, 20)]
    target = np.random.default_rng(1).normal(size=20).astype(np.float32)
    signs = {seed: int(np.sign(directions.integers(seed, 0, 1)[0])) for seed in candidates}
    assert 20 < list(signs.values()).count(0) < 80
    scores = {
        seed: np.sign(target[0]) * sign + cosine(directions.vector(seed, 1, 20), target[1:])
        for seed, sign in signs.items()
    }
    expected = sorted(candidates, key=lambda seed: abs(scores[seed]) if absolute else scores[seed], reverse=True)
    for keep in (40, 300):
        assert nearest(directions, candidates, keep, target, parts, absolute) == sorted(expected[:keep])


# planning


def make(sampling, sections=None):
    """A job that samples in its PEFT block, at version 1: one entry has been committed."""
    head = {"directions": 5, "learning_rate": 0.2}
    peft = {"directions": COUNT, "max_directions": 4 * COUNT, "learning_rate": 0.1}
    spec = job_spec({"blocks.peft": peft, "blocks.head": head, "blocks.peft.sampling": sampling, **(sections or {})})
    theta = np.resize(THETA, LAYOUT.size).astype(np.float32)
    header = run_header(spec, LAYOUT, theta)
    state = ModelState.initial(header, LAYOUT, theta)
    update = BlockUpdate("peft", np.arange(7, dtype=np.uint64), np.arange(7) * 1000 - 2500, np.float32(0.1))
    entry = state.advance(LedgerEntry(1, (update,), b""))
    return Run(spec, header, LAYOUT), state, entry


def peft(plans) -> BlockPlan:
    return next(plan for plan in plans if plan.block == "peft")


def gradient_of(entry, directions) -> np.ndarray:
    update = entry.updates[0]
    return directions.weighted_sum(update.seeds, update.coefficients, 0, 51).astype(np.float64)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("cosine", ["signed", "absolute"])
@pytest.mark.parametrize("scope", ["vector", "tensor"])
def test_a_round_keeps_the_candidates_nearest_to_the_last_gradient(distribution, cosine, scope):
    sections = {"perturbation": {"distribution": distribution}}
    run, state, entry = make({"keep": 0.1, "cosine": cosine, "scope": scope}, sections)
    plan = peft(forward_gradient.plan(run, 2, state, entry))
    directions = state.header.directions
    target = gradient_of(entry, directions)
    first = 2 << 32

    assert plan.wanted == COUNT
    assert plan.seeds == best(
        directions, range(first, first + 10 * COUNT), COUNT, target, PARTS[scope], cosine == "absolute"
    )


@pytest.mark.parametrize("kind", ["momentum", "adam", "normalized", "trust-ratio"])
def test_the_reference_may_be_the_optimisers_momentum(kind):
    """After two rounds that is not the last gradient."""
    run, state, _ = make({"keep": 0.25, "reference": "momentum"}, {"optimizer": {"kind": kind}})
    update = BlockUpdate("peft", np.arange(50, 57, dtype=np.uint64), np.arange(7) * 100, np.float32(0.1))
    entry = state.advance(LedgerEntry(2, (update,), b""))
    candidates = range(3 << 32, (3 << 32) + 4 * COUNT)
    directions, momentum = state.header.directions, state.optimizer["peft"].first

    found = peft(forward_gradient.plan(run, 3, state, entry)).seeds
    assert found == best(directions, candidates, COUNT, momentum, PARTS["vector"], False)
    assert found != best(directions, candidates, COUNT, gradient_of(entry, directions), PARTS["vector"], False)


def plain(round_number, count=COUNT):
    return list(range(round_number << 32, (round_number << 32) + count))


@pytest.mark.parametrize("reference", ["gradient", "momentum"])
def test_the_first_round_has_no_reference_and_takes_the_plain_seeds(reference):
    run, state, _ = make({"reference": reference})
    start = ModelState.initial(state.header, LAYOUT, np.resize(THETA, LAYOUT.size).astype(np.float32))

    assert peft(forward_gradient.plan(run, 1, start, None)).seeds == plain(1)


def test_a_round_after_one_without_the_block_takes_the_plain_seeds():
    run, state, entry = make({})
    other = BlockUpdate("head", np.arange(3, dtype=np.uint64), np.arange(3), np.float32(0.1))

    assert peft(forward_gradient.plan(run, 2, state, entry)).seeds != plain(2)
    assert peft(forward_gradient.plan(run, 2, state, LedgerEntry(1, (other,), b""))).seeds == plain(2)


def test_a_last_gradient_of_zero_prefers_nothing():
    run, state, _ = make({})
    zero = BlockUpdate("peft", np.arange(3, dtype=np.uint64), np.zeros(3, dtype=np.int64), np.float32(0.1))

    assert peft(forward_gradient.plan(run, 2, state, LedgerEntry(1, (zero,), b""))).seeds == plain(2)


def test_a_block_without_a_sampling_section_takes_the_plain_seeds():
    run, state, _ = make({})
    updates = tuple(
        BlockUpdate(block, np.arange(3, dtype=np.uint64), np.arange(3), np.float32(0.1)) for block in ("peft", "head")
    )
    head = forward_gradient.plan(run, 2, state, LedgerEntry(1, updates, b""))[1]

    assert head.seeds == list(range(head.first_seed, head.first_seed + 5))
    assert head.first_seed == 2 << 32 | 1 << 24


def test_keeping_everything_is_not_sampling():
    run, state, entry = make({"keep": 1.0})

    assert peft(forward_gradient.plan(run, 2, state, entry)).seeds == plain(2)


def test_every_third_step_samples():
    run, state, entry = make({"every": 3})
    sampled = []
    for step in range(1, 10):
        state.version = step - 1
        if peft(forward_gradient.plan(run, step, state, entry)).seeds != plain(step):
            sampled.append(step)

    assert sampled == [3, 6, 9]


def test_directions_that_are_over_assigned_are_sampled_too():
    run, state, entry = make({"keep": 0.1})
    plan = peft(forward_gradient.plan(run, 2, state, entry, seeds_per_direction=1.5))

    assert (plan.wanted, len(plan.seeds)) == (COUNT, 12)
    assert max(plan.seeds) < (2 << 32) + 120
    assert max(plan.seeds) > (2 << 32) + 80  # beyond the candidates for 8; fixed by the seeds of this run


def test_a_step_more_samples_among_seeds_that_were_never_handed_out():
    run, state, entry = make({"keep": 0.1})
    first = peft(forward_gradient.plan(run, 2, state, entry))
    second = forward_gradient.extend(run, first, state, entry)
    more = second.seeds[COUNT:]
    candidates = range(first.end_seed, first.end_seed + 10 * COUNT)
    directions = state.header.directions

    assert second.seeds[:COUNT] == first.seeds
    assert more == best(directions, candidates, COUNT, gradient_of(entry, directions), PARTS["vector"], False)
    assert len(set(forward_gradient.extend(run, second, state, entry).seeds)) == 3 * COUNT


def test_a_coordinator_that_restarts_makes_the_same_plan():
    """What it has on disk are the job, the header, a snapshot and the ledger."""
    sampling = {"keep": 0.1, "reference": "momentum", "scope": "tensor"}
    run, state, entry = make(sampling)
    again, _, _ = make(sampling)
    restored = ModelState.from_bytes(state.header, LAYOUT, state.to_bytes())
    read = LedgerEntry.from_bytes(entry.to_bytes())
    plan, same = (
        peft(forward_gradient.plan(each, 2, *given))
        for each, given in ((run, (state, entry)), (again, (restored, read)))
    )

    assert same == plan
    assert forward_gradient.extend(again, same, restored, read) == forward_gradient.extend(run, plan, state, entry)


@pytest.mark.parametrize("directions", [1000, 65535, 65536])
def test_the_candidates_of_a_round_never_reach_those_of_the_next_block(directions, monkeypatch):
    """The worst case: as many as can be, of which the last are kept, in many steps."""
    offered = []
    monkeypatch.setattr(
        sampling_module, "nearest", lambda _, candidates, keep, *rest: offered.append(candidates) or candidates[-keep:]
    )
    block = {"directions": directions, "max_directions": 65536, "learning_rate": 0.1}
    run, state, entry = make({"keep": 1 / 255.5}, {"blocks.peft": block})
    plan = peft(forward_gradient.plan(run, 2, state, entry))
    for _ in range(66):
        plan = forward_gradient.extend(run, plan, state, entry)

    assert len(plan.seeds) == 65536
    assert 255 * 65536 < max(each.stop for each in offered) - plain(2)[0] <= 1 << 24
