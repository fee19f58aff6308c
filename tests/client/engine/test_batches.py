import itertools

import numpy as np
import pytest
from client.engine.tiny_bundle import make_dataset
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.engine.batches import (
    Group,
    group_by_doubling,
    group_by_length,
    nested_size,
    padded_lengths,
    same_rows,
    sample_rows,
    text_of,
)
from fwdllm_common.errors import BadInputError


def test_the_batch_is_fixed_for_all_machines():
    assert sample_rows(1, 2, np.arange(100, 200), 6).tolist() == [104, 105, 137, 142, 158, 186]


@given(count=st.integers(1, 200), batch_size=st.integers(1, 250), seed=st.integers(0, 2**64 - 1))
def test_a_batch_has_no_row_twice(count, batch_size, seed):
    rows = np.arange(count) * 3
    batch = sample_rows(7, seed, rows, batch_size)
    assert len(batch) == min(count, batch_size)
    assert (np.diff(batch) > 0).all()
    assert np.isin(batch, rows).all()
    np.testing.assert_array_equal(batch, sample_rows(7, seed, rows, batch_size))


def test_batches_of_different_seeds_cover_all_rows_alike():
    counts = np.zeros(20)
    for seed in range(2000):
        counts[sample_rows(3, seed, np.arange(20), 5)] += 1
    assert (abs(counts - 500) < 100).all()


def test_no_rows_is_an_error():
    with pytest.raises(BadInputError, match="no rows to train on"):
        sample_rows(1, 2, np.arange(0), 6)


@given(lengths=st.lists(st.integers(1, 60), max_size=60), budget=st.integers(1, 300), max_tokens=st.integers(60, 70))
def test_groups_hold_every_row_once_within_the_budget(lengths, budget, max_tokens):
    rows = np.arange(len(lengths)) + 5
    padded = padded_lengths(np.array(lengths, dtype=np.int64), max_tokens)
    assert ((padded >= lengths) & (padded <= max_tokens) & (padded >= 2)).all()
    groups = list(group_by_length(rows, padded, budget))
    assert sorted(np.concatenate([group.rows for group in groups], dtype=np.int64) if groups else []) == list(rows)
    for group in groups:
        assert (padded[group.rows - 5] == group.tokens).all()
        assert len(group.rows) == 1 or len(group.rows) * group.tokens <= budget


def test_text_is_padded_on_the_right():
    dataset = make_dataset()
    group = Group(np.array([3, 0, 17]), 20)
    text = text_of(dataset, group, pad_token_id=99)
    for row, ids, mask in zip(group.rows, text.input_ids, text.attention_mask, strict=True):
        expected = dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]]
        np.testing.assert_array_equal(ids[: len(expected)], expected)
        assert (ids[len(expected) :] == 99).all()
        assert mask.tolist() == [1] * len(expected) + [0] * (20 - len(expected))


def test_a_larger_batch_of_the_same_rows_has_those_of_a_smaller_one():
    rows = np.arange(100, 150)
    small, large, everything = (set(same_rows(1, rows, size).tolist()) for size in (8, 20, 64))
    assert small < large < everything == set(rows.tolist())
    assert len(small) == 8
    assert set(same_rows(2, rows, 8).tolist()) != small


@given(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=40), budget=st.integers(1, 2000))
def test_groups_by_doubling_hold_every_row_once_within_bounds(lengths, budget):
    padded = np.array(lengths)
    rows = np.arange(len(lengths)) + 100
    groups = list(group_by_doubling(rows, padded, budget))
    assert sorted(row for group in groups for row in group.rows) == rows.tolist()
    for group in groups:
        its = padded[group.rows - 100]
        assert its.max() == group.tokens <= 2 * its.min()
        assert len(its) == 1 or len(its) * group.tokens <= budget


@given(rows=st.integers(1, 200), step=st.integers(1, 32))
def test_nested_batches_differ_by_no_few_rows(rows, step):
    sizes = sorted({nested_size(size, rows, min(step, rows)) for size in range(min(step, rows), 260)})
    assert sizes[-1] == rows
    assert all(after - before >= step for before, after in itertools.pairwise(sizes))


def test_a_nested_batch_has_about_the_size_that_is_asked_for():
    assert [nested_size(size, 37, 8) for size in (8, 15, 16, 32, 36, 37, 64)] == [8, 8, 16, 24, 24, 37, 37]
    assert nested_size(8, 12, 8) == 12
