"""Pairs of texts: the names of their columns, what is wrong with a row, and token ids as transformers has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_tasks import MODELS, save_bert, write_rows
from transformers import AutoTokenizer

from fwdllm_client.data import Dataset
from fwdllm_client.data.pairs import PAIRS
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.manifest import BundleFile, Manifest, Stage

TASK = "pair-classification"
LAYOUT = Layout((TensorSpec("classifier", (2, 3), "head"),))


def manifest_of(max_tokens: int, labels: tuple[str, ...] = ("no", "yes"), task: str = TASK) -> Manifest:
    file = BundleFile("file", "0" * 64, 4)
    stages = tuple(Stage(block, file, None, ("input_ids",), True, 4, 16) for block in (None, "head"))
    return Manifest(labels, max_tokens, 0, file, LAYOUT, stages, task=task)


@pytest.mark.parametrize("names", PAIRS)
def test_pairs_are_found_by_their_usual_names(names: tuple[str, str], tmp_path: Path) -> None:
    first, second = names
    row = {first: "the old house", second: "a river", "label": 1, "idx": 0}
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", [row]))
    (found,) = source.rows()
    assert (found.text, found.label) == (("the old house", "a river"), "1")
    assert source.texts() == ["the old house a river"]
    assert (source.contents().task, source.contents().rows_by_label) == (TASK, {"1": 1})


def test_pairs_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("label,left,right,premise,hypothesis\nyes,one,two,three,four\n")
    source = task_named(TASK).source(file, RowOptions(text_column="left", pair_column="right"))
    assert [row.text for row in source.rows()] == [("one", "two")]
    assert [row.text for row in task_named(TASK).source(file).rows()] == [("three", "four")]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "a", "label": "x"}], {}, r"line 1: no columns of a pair of texts \(text and text_pair, premise"),
        ([{"text": "a", "text_pair": None, "label": "x"}], {}, "line 1: 'the second text of the pair' is not a text"),
        ([{"text": "a", "text_pair": "b"}], {}, "line 1: no column 'label'"),
        ([{"text": "a", "text_pair": "b", "label": ""}], {}, "line 1: 'label' is empty"),
        (
            [{"text": "a", "text_pair": "b", "label": "x"}, {"text": "a [SEP] b", "text_pair": "c", "label": "x"}],
            {},
            r"line 2: the first text has '\[SEP\]' in it",
        ),
        (
            [{"left": "a", "label": "x"}],
            {"text_column": "left", "pair_column": "right"},
            "no columns 'left' and 'right'",
        ),
    ],
)
def test_a_wrong_row_is_named(
    rows: list[dict[str, object]], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows), RowOptions(**options))
    with pytest.raises(BadInputError, match=message):
        list(source.rows())


def test_incomplete_pairs_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"premise": "a", "hypothesis": "", "label": "x"},
        {"premise": "a", "hypothesis": "b", "label": None},
        {"premise": "a", "hypothesis": "b", "label": "x"},
    ]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows), RowOptions(skip_incomplete=True))
    assert (source.contents().rows, source.contents().left_out) == (1, 2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("max_tokens", [8, 12, 40])
def test_token_ids_are_those_of_transformers(model: str, max_tokens: int, tmp_path: Path) -> None:
    """Long and short texts on either side, cut longest first."""
    folder = MODELS[model](tmp_path / model)
    texts = ["the old house by a river", "grey stones of the old house was built long ago by a river", "ada", ""]
    pairs = [(first, second) for first in texts for second in texts]
    rows = [{"text": first, "text_pair": second, "label": "yes"} for first, second in pairs]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    dataset = Dataset.load(source, Path(folder) / "tokenizer.json", manifest_of(max_tokens))
    expected = AutoTokenizer.from_pretrained(folder)(
        [first for first, _ in pairs], [second for _, second in pairs], truncation=True, max_length=max_tokens
    )["input_ids"]
    found = [dataset.token_ids[a:b].tolist() for a, b in zip(dataset.offsets, dataset.offsets[1:], strict=False)]
    assert found == [ids or [0] for ids in expected]
    assert dataset.labels.tolist() == [1] * len(pairs)


def test_a_label_of_another_file_is_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "text_pair": "b", "label": label} for label in ("yes", "maybe")]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    tokenizer = Path(save_bert(tmp_path / "bert")) / "tokenizer.json"
    with pytest.raises(BadInputError, match="line 2: label 'maybe' is not one of the model's"):
        Dataset.load(source, tokenizer, manifest_of(16))


def test_labels_are_not_read_to_predict(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "was it old", "passage": "the old house"}) + "\n")
    tokenizer = Path(save_bert(tmp_path / "bert")) / "tokenizer.json"
    dataset = task_named(TASK).to_predict(file, RowOptions(), tokenizer, manifest_of(16))
    np.testing.assert_array_equal(dataset.labels, [-1])
    with pytest.raises(BadInputError, match="a text alone is for another"):
        task_named(TASK).of_texts(["a text"], tokenizer, manifest_of(16))
