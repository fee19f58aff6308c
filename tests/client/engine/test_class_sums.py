from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from client.engine.tiny_bundle import LABELS, WIDTH

from fwdllm_client.engine import Engine
from fwdllm_common.errors import BadInputError

ROWS = np.arange(5, 30)


def features(bundle, dataset, row, theta):
    """What the head reads, in float64, with the prefix rounded to float16 as on the device."""
    ids = dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]]
    weights = bundle.manifest.layout.unpack(theta)["peft.w"].astype(np.float64)
    prefix = np.tanh(bundle.embedding[ids].astype(np.float64) @ bundle.frozen).astype(np.float16).astype(np.float64)
    return (prefix + np.tanh(prefix @ weights)).mean(axis=0)


def test_they_are_the_sums_of_what_the_head_reads(engine, bundle, dataset, theta):
    found = engine.class_sums(theta, ROWS)

    assert [item.label for item in found] == list(range(LABELS))
    assert sum(item.rows for item in found) == len(ROWS)
    for item in found:
        rows = [row for row in ROWS if dataset.labels[row] == item.label]
        assert item.rows == len(rows)
        assert item.features.dtype == np.float32
        assert item.features.shape == (WIDTH,)
        expected = np.sum([features(bundle, dataset, row, theta) for row in rows], axis=0)
        np.testing.assert_allclose(item.features, expected, rtol=2e-3, atol=2e-3)


def test_a_class_without_rows_has_no_sum(engine, dataset, theta):
    rows = np.flatnonzero(dataset.labels == 1)

    assert [(item.label, item.rows) for item in engine.class_sums(theta, rows)] == [(1, len(rows))]
    assert engine.class_sums(theta, rows[:0]) == []


def test_the_second_time_they_are_the_same_bits_and_cost_nothing(engine, theta):
    first = engine.class_sums(theta, ROWS)
    passes = engine.example_passes
    again = engine.class_sums(theta, ROWS)

    assert [item.features.tobytes() for item in again] == [item.features.tobytes() for item in first]
    assert 0 < passes < len(ROWS)  # all but the head
    assert engine.example_passes == passes


def test_a_sum_goes_over_the_wire_as_it_is(engine, theta):
    item = engine.class_sums(theta, ROWS)[0]
    message = item.to_message()

    assert (message.label, message.rows) == (item.label, item.rows)
    assert np.array(message.features, dtype=np.float32).tobytes() == item.features.tobytes()


def test_a_head_on_tokens_has_no_features_to_add_up(bundle, dataset, theta, tmp_path):
    prefix, peft, head = bundle.manifest.stages
    manifest = replace(bundle.manifest, stages=(prefix, replace(peft, per_token=True), head))
    with (
        Engine(bundle.folder, manifest, dataset, tmp_path / "cache", threads=1) as engine,
        pytest.raises(BadInputError, match="reads tokens and not one vector a row"),
    ):
        engine.class_sums(theta, ROWS)
