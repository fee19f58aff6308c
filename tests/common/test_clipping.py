"""What one device can change of a sum: exactly as much as its clip, whatever it has measured."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.clipping import Part, clipped, noise_variance, norm_squared
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.orthogonal import OrthogonalDirections

SCALARS = st.integers(-(1 << 40), 1 << 40)
PARTS = st.lists(
    st.tuples(st.lists(SCALARS, min_size=1, max_size=32), st.sampled_from([32, 64, 1024])), min_size=1, max_size=3
).map(lambda parts: [Part(np.array(values, dtype=np.int64), order) for values, order in parts])
CLIPS = st.floats(1e-6, 1e6)


@given(PARTS, CLIPS)
def test_the_norm_is_within_the_clip_exactly(parts, clip):
    kept = clipped(parts, clip)
    assert norm_squared([Part(values, part.order) for values, part in zip(kept, parts, strict=True)]) <= (
        Fraction(clip) ** 2
    )


@given(PARTS, CLIPS)
def test_what_is_within_the_clip_stays_as_it_is_and_all_else_keeps_its_direction(parts, clip):
    kept, before = clipped(parts, clip), norm_squared(parts)
    if before <= Fraction(clip) ** 2:
        assert all(np.array_equal(values, part.values) for values, part in zip(kept, parts, strict=True))
        return
    factor = clip / float(before) ** 0.5
    for values, part in zip(kept, parts, strict=True):
        assert np.all(np.abs(values - part.values * factor) <= 1 + 1e-9 * np.abs(part.values))
        assert np.all(np.sign(values) * np.sign(part.values) >= 0)


@pytest.mark.parametrize("size", [7, 20, 31])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_norm_bounds_that_of_the_estimate_itself(size, share):
    directions = OrthogonalDirections(run_key=5, block_start=0, size=size)
    count = int(directions.order * share)
    seeds = np.arange(directions.order, directions.order + count, dtype=np.uint64)
    values = np.random.default_rng(size).integers(-(1 << 30), 1 << 30, count)
    estimate = directions.weighted_sum(seeds, values, 0, size) / (count * SCALE)
    bound = float(norm_squared([Part(values, directions.order)])) ** 0.5

    assert np.linalg.norm(estimate) <= bound
    assert np.linalg.norm(estimate) > 0.5 * bound


def test_of_a_complete_frame_the_norm_is_that_of_the_gradient():
    directions = OrthogonalDirections(run_key=5, block_start=0, size=31)
    seeds = np.arange(directions.order, dtype=np.uint64)
    gradient = np.random.default_rng(1).normal(size=31).astype(np.float32)
    values = np.rint(directions.products(seeds, gradient) * SCALE).astype(np.int64)

    norm = float(norm_squared([Part(values, directions.order)])) ** 0.5
    assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


@given(st.floats(1e-3, 1e3), CLIPS, st.integers(1, 4096), st.sampled_from([64, 4096]))
def test_noise_is_never_less_than_asked_for(share, clip, count, order):
    variance = Fraction(noise_variance(share, clip, count, order), SCALE * SCALE)
    assert variance * Fraction(order, count * count) >= Fraction(share) * Fraction(clip) ** 2
