"""d · f, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_server.profiler.law import Cost

COST = Cost({"peft": 100, "head": 10}, {"peft": 0.5, "head": 0.01})


def test_a_gradient_costs_the_directions_of_every_block() -> None:
    assert COST.gradient == pytest.approx(100 * 0.5 + 10 * 0.01)


def test_rows_run_through_the_frozen_layers_once() -> None:
    assert COST.passes(rows=4, visits=0) == 0
    assert COST.passes(rows=4, visits=8) == pytest.approx(4 + 8 * (0.5 + 50.1))


@given(rows=st.integers(1, 100), visits=st.integers(1, 1000), more=st.integers(1, 100))
def test_more_visits_cost_more(rows: int, visits: int, more: int) -> None:
    assert COST.passes(rows, visits + more) - COST.passes(rows, visits) == pytest.approx(more * 50.6)


def test_shares_are_of_the_stages_from_a_block_on(tmp_path) -> None:
    from client.engine.tiny_bundle import write_bundle

    manifest = write_bundle(tmp_path).manifest
    tokens = np.array([3, 5])
    cost = Cost.of(manifest, tokens)
    costs = manifest.row_costs(tokens).sum(axis=1)
    for name, block in manifest.layout.blocks.items():
        assert cost.coordinates[name] == block.size
        assert cost.shares[name] == pytest.approx(costs[manifest.stage_of(name) :].sum() / costs.sum())
