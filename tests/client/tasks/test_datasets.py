"""Labels of several shapes as the model reads them."""

import numpy as np
import pytest

from fwdllm_client.data.dataset import IGNORED, Dataset, TokenDataset

IDS, OFFSETS, ROWS = np.arange(5, dtype=np.int32), np.array([0, 2, 5]), np.arange(2)


@pytest.mark.parametrize(
    ("labels", "learnable", "targets"),
    [
        (np.array([2, -1], dtype=np.int32), [True, False], [2, 0]),
        (np.array([[1, 2], [-1, -1]], dtype=np.int32), [True, False], [[1, 2], [0, 0]]),
        (np.array([[0, 1, 1], [1, 0, 0]], dtype=np.int32), [True, True], [[0, 1, 1], [1, 0, 0]]),
        (np.array([-2.5, np.nan], dtype=np.float32), [True, False], [-2.5, 0.0]),
    ],
    ids=["class", "span", "several", "value"],
)
def test_a_label_of_a_row(labels, learnable, targets):
    dataset = Dataset(IDS, OFFSETS, labels)
    assert dataset.learnable(ROWS).tolist() == learnable
    found = dataset.targets(ROWS, 8)
    assert found.tolist() == targets
    assert found.dtype == (np.int64 if labels.dtype == np.int32 else np.float32)
    assert Dataset.of_targets(IDS, OFFSETS, found).targets(ROWS).tolist() == targets
    assert len(dataset) == 2


def test_a_label_of_a_token():
    dataset = TokenDataset(IDS, OFFSETS, np.array([IGNORED, IGNORED, IGNORED, 3, 0], dtype=np.int32))
    assert dataset.learnable(ROWS).tolist() == [False, True]
    assert dataset.learnable(ROWS[:0]).tolist() == []
    assert dataset.targets(ROWS[1:], 4).tolist() == [[IGNORED, 3, 0, IGNORED]]
    every = dataset.targets(ROWS)
    assert every.tolist() == [[IGNORED, IGNORED, IGNORED], [IGNORED, 3, 0]]
    again = TokenDataset.of_targets(IDS, OFFSETS, every)
    assert again.fingerprint == dataset.fingerprint
    assert len(dataset) == 2


def test_other_labels_are_other_data():
    prints = {Dataset(IDS, OFFSETS, np.array(labels)).fingerprint for labels in ([0.5, 1.0], [0.5, 1.5])}
    assert len(prints) == 2


def test_rows_weigh_as_their_classes_do():
    dataset = Dataset(IDS, OFFSETS, np.array([1, 0], dtype=np.int32))
    assert dataset.weighted(()).weights(ROWS).tolist() == [1, 1]
    assert dataset.weighted((0.5, 3)).weights(ROWS).tolist() == [3, 0.5]
    assert dataset.weighted((0.5, 3)).fingerprint == dataset.fingerprint
