"""Several labels of a text: the forms that they come in, and what is wrong with a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from client.tasks.test_pairs import manifest_of
from helpers.tiny_tasks import save_bert, write_rows

from fwdllm_client.data import Dataset
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError

TASK = "multi-label"
LABELS = ("joy", "anger", "fear")


def labels_of(file: Path, **options: str) -> list[tuple[str, ...]]:
    return [row.label for row in task_named(TASK).source(file, RowOptions(**options)).rows()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["joy", "fear"], ("joy", "fear")),
        (["joy", "joy"], ("joy",)),
        ([], ()),
        ([3, 5], ("3", "5")),
        (3, ("3",)),
        ("joy", ("joy",)),
        ("joy, fear", ("joy", "fear")),
        ("joy;fear, of a kind", ("joy", "fear, of a kind")),
        ("a|b;c", ("a", "b;c")),
        ("", ()),
        ("['joy', 'fear']", ("joy", "fear")),
        ('["joy"]', ("joy",)),
        ("[]", ()),
    ],
)
def test_a_field_of_labels(value: object, expected: tuple[str, ...], tmp_path: Path) -> None:
    assert labels_of(write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": value}])) == [expected]


def test_a_column_for_each_label(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,joy,anger,fear\na,1,0,true\nb,0.0,0,False\n")
    assert labels_of(file, label_column="joy, anger,fear") == [("joy", "fear"), ()]
    file.write_text("text,joy,anger\na,1,0\nb,2,0\n")
    with pytest.raises(BadInputError, match=r"line 3: 'joy' is '2'; a column for one label holds 1 or 0"):
        labels_of(file, label_column="joy,anger")
    with pytest.raises(BadInputError, match="no column 'fear', only 'text', 'joy', 'anger'"):
        labels_of(file, label_column="joy,fear")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "line 1: 'label' is None; give a list of labels"),
        (1.5, "line 1: 'label' is 1.5; give a list of labels"),
        ("['joy'", "line 1: 'label' is no list"),
        (["joy", None], "line 1: 'label' is empty"),
        (["joy", 0.5], "line 1: 'label' is neither a text nor a whole number"),
        ([["joy"]], "line 1: 'label' is neither a text nor a whole number"),
    ],
)
def test_a_wrong_field_is_named(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message):
        labels_of(write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": value}]))


def test_labels_become_ones_and_zeros(tmp_path: Path) -> None:
    rows = [{"text": "the old house", "label": ["fear", "joy"]}, {"text": "a river", "label": []}]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    tokenizer = Path(save_bert(tmp_path / "bert")) / "tokenizer.json"
    dataset = Dataset.load(source, tokenizer, manifest_of(16, LABELS, TASK))
    assert dataset.targets(np.arange(2)).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert dataset.learnable(np.arange(2)).all()
    assert dataset.classes(np.arange(2)).tolist() == [0, 2]
    found = source.contents()
    assert (found.labels, found.rows, found.rows_by_label) == (("fear", "joy"), 2, {"fear": 1, "joy": 1})
    (first, second) = task_named(TASK).predictions(
        dataset, np.arange(2), np.array([[2, -2, 0], [-900, -1, -1]], dtype=np.float32), LABELS
    )
    assert (first.text, first.value, second.value) == ("joy, fear", ["joy", "fear"], [])
    assert second.probabilities[0] == 0
    with pytest.raises(BadInputError, match="line 1: label 'fear' is not one of the model's"):
        Dataset.load(source, tokenizer, manifest_of(16, LABELS[:2], TASK))


def test_a_file_without_any_label_is_refused(tmp_path: Path) -> None:
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": []}]))
    with pytest.raises(BadInputError, match="none of its rows has a label in 'label'"):
        source.contents()
