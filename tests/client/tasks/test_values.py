"""Numbers of texts and pairs: what a row is, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from client.tasks.test_pairs import manifest_of
from helpers.tiny_tasks import save_bert, write_rows

from fwdllm_client.data import Dataset
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError

TASK = "regression"


def test_rows_are_texts_or_pairs(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("sentence1,sentence2,label\nthe old house,a river,2.5\n")
    source = task_named(TASK).source(file)
    assert [(row.text, row.label) for row in source.rows()] == [(("the old house", "a river"), 2.5)]
    rows = [{"text": "a", "label": 3}, {"text": "a", "text_pair": "b", "label": "-1e-2"}]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    assert [(row.text, row.label) for row in source.rows()] == [("a", 3.0), (("a", "b"), -0.01)]
    assert (source.contents().task, source.contents().rows, source.contents().labels) == (TASK, 2, ())
    tokenizer = Path(save_bert(tmp_path / "bert")) / "tokenizer.json"
    dataset = Dataset.load(source, tokenizer, manifest_of(16, (), TASK))
    assert dataset.labels.dtype == np.float32
    np.testing.assert_allclose(dataset.targets(np.arange(2)), [3.0, -0.01])
    unknown = task_named(TASK).to_predict(file, RowOptions(), tokenizer, manifest_of(16, (), TASK))
    assert not unknown.learnable(np.arange(1)).any()


@pytest.mark.parametrize("value", ["five", "nan", "1e99", True, [1], None, ""])
def test_what_is_no_number_is_named(value: object, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "a", "label": value}]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    with pytest.raises(BadInputError, match=r"line 2: 'label' is .*, which is no finite number"):
        source.contents()


def test_a_row_without_a_text_is_named(tmp_path: Path) -> None:
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", [{"body": "a", "label": 1}]))
    with pytest.raises(BadInputError, match="line 1: no column 'text'"):
        source.contents()
