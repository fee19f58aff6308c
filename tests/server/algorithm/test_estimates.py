import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.directions import Directions
from fwdllm_common.estimator import forward_gradient
from fwdllm_common.layout import Block
from fwdllm_server.algorithm import estimates
from fwdllm_server.algorithm.estimates import LastEstimates

BLOCKS = (Block("peft", 0, 200), Block("head", 200, 230))


@given(asked=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(BLOCKS)), max_size=12))
def test_every_estimate_is_that_of_its_own_scalars(asked: list[tuple[int, int, Block]]) -> None:
    estimate = LastEstimates()
    for first, count, block in asked:
        seeds = np.arange(first, first + count, dtype=np.uint64)
        coefficients = np.arange(count, dtype=np.int64) - first
        for directions in (Directions(7), Directions(7, "gaussian"), Directions(8)):
            found = estimate(directions, seeds, coefficients, block)
            assert found.tobytes() == forward_gradient(directions, seeds, coefficients, block).tobytes()


def test_what_was_asked_for_last_in_a_block_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Block] = []

    def counted(directions: Directions, seeds: object, coefficients: object, block: Block) -> object:
        made.append(block)
        return forward_gradient(directions, seeds, coefficients, block)  # type: ignore[arg-type]

    monkeypatch.setattr(estimates, "forward_gradient", counted)
    estimate = LastEstimates()
    seeds, coefficients = np.arange(3, dtype=np.uint64), np.arange(3, dtype=np.int64)
    for _ in range(2):
        for block in BLOCKS:
            estimate(Directions(7), seeds, coefficients, block)
    assert made == list(BLOCKS)


def test_nobody_can_write_to_an_estimate() -> None:
    found = LastEstimates()(Directions(7), np.arange(3, dtype=np.uint64), np.arange(3, dtype=np.int64), BLOCKS[0])
    with pytest.raises(ValueError, match="read-only"):
        found += 1
