"""Tagged words: the files that they come in, what is wrong with a row, and token ids as transformers has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from client.tasks.test_pairs import manifest_of
from helpers.tiny_tasks import TAGS, save_bert, save_bytes, save_llama, tagged_rows, write_rows
from transformers import AutoTokenizer

from fwdllm_client.data import Dataset
from fwdllm_client.data.dataset import IGNORED
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError

TASK = "token-classification"
CONLL = """-DOCSTART- -X- -X- O

Ada NNP B-NP B-PER
slept VBD B-VP O

In IN B-PP O
York NNP B-NP B-LOC
"""


def rows_of(file: Path, **options: str) -> list[tuple[int, list[str], list[str]]]:
    found = task_named(TASK).source(file, RowOptions(**options)).rows()
    return [(row.line, list(row.words), list(row.tags)) for row in found]


@pytest.mark.parametrize("text", [CONLL, CONLL.replace(" ", "\t"), CONLL.replace("\n", "\r\n"), CONLL.rstrip()])
def test_a_conll_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_bytes(text.encode())
    assert rows_of(file) == [(3, ["Ada", "slept"], ["B-PER", "O"]), (6, ["In", "York"], ["O", "B-LOC"])]
    contents = task_named(TASK).source(file).contents()
    assert (contents.rows, contents.labels) == (2, ("B-LOC", "B-PER", "O"))


def test_lists_of_words_and_tags(tmp_path: Path) -> None:
    row = {"id": 0, "tokens": ["Ada", "slept"], "pos_tags": ["NNP", "VBD"], "ner_tags": ["B-PER", "O"]}
    file = write_rows(tmp_path / "rows.jsonl", [row])
    assert rows_of(file) == [(1, ["Ada", "slept"], ["B-PER", "O"])]
    assert rows_of(file, label_column="pos_tags") == [(1, ["Ada", "slept"], ["NNP", "VBD"])]
    file = write_rows(tmp_path / "words.jsonl", [{"words": "Ada slept", "tags": "B-PER O"}])
    assert rows_of(file) == [(1, ["Ada", "slept"], ["B-PER", "O"])]


def test_class_numbers_of_datasets_become_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=TAGS)),
        }
    )
    data = datasets.Dataset.from_dict({"tokens": [["Ada", "slept"]], "ner_tags": [[1, 0]]}, features=features)
    data.to_parquet(tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet") == [(1, ["Ada", "slept"], ["B-PER", "O"])]
    data.to_json(tmp_path / "rows.jsonl")
    with pytest.raises(BadInputError, match=r"line 1: 'ner_tags' has numbers whose names nobody knows"):
        rows_of(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, r"line 2: 2 words in 'tokens' and 1 tags in 'ner_tags'; give each"),
        ({"tokens": [], "ner_tags": []}, "line 2: 'tokens' is empty"),
        ({"tokens": ["a"], "ner_tags": None}, "line 2: 'ner_tags' is None; it must be a list of texts"),
        ({"tokens": [3.5], "ner_tags": ["O"]}, "line 2: 'tokens' is not a text"),
        ({"text": "a b", "ner_tags": ["O"]}, r"line 2: no column of words \('tokens', 'words'\); name it with"),
        ({"tokens": ["a"]}, r"line 2: no column of tags"),
    ],
)
def test_a_wrong_row_is_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"tokens": ["a"], "ner_tags": ["O"]}, row])
    with pytest.raises(BadInputError, match=message):
        rows_of(file)


def test_incomplete_rows_are_left_out(tmp_path: Path) -> None:
    rows = [{"tokens": [], "ner_tags": []}, {"tokens": ["a"], "ner_tags": None}, {"tokens": ["a"], "ner_tags": ["O"]}]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows), RowOptions(skip_incomplete=True))
    assert (source.contents().rows, source.contents().left_out) == (1, 2)


@pytest.mark.parametrize(
    "text", ["Ada B-PER\nslept\n", "# a comment\nAda B-PER\n", "Ada\nslept\n", "Ada\tB-PER\n\tO\n"]
)
def test_a_wrong_line_of_conll_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text(text)
    with pytest.raises(BadInputError, match=r"line [12]: \d columns, where a word and its tag are two"):
        rows_of(file)
    with pytest.raises(BadInputError, match="no column 'user', only 'tokens', 'ner_tags'"):
        rows_of(file, user_column="user", user="ann")


@pytest.mark.parametrize("save", [save_bert, save_bytes, save_llama])
@pytest.mark.parametrize("max_tokens", [6, 40])
def test_tokens_and_labels_are_those_of_transformers(
    save: Callable[[Path], str], max_tokens: int, tmp_path: Path
) -> None:
    """Byte-level tokenizers as ``add_prefix_space=True`` makes them; labels as Hugging Face's examples align them."""
    folder, rows = save(tmp_path / "model"), tagged_rows(12, seed=2)
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    dataset = Dataset.load(source, Path(folder) / "tokenizer.json", manifest_of(max_tokens, TAGS, TASK))
    options = {"add_prefix_space": True} if save is save_bytes else {}
    encoded = AutoTokenizer.from_pretrained(folder, **options)(
        [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=max_tokens
    )
    for index, row in enumerate(rows):
        start, end = dataset.offsets[index : index + 2]
        assert dataset.token_ids[start:end].tolist() == encoded["input_ids"][index]
        expected, before = [], None
        for word in encoded.word_ids(index):
            expected.append(IGNORED if word in (None, before) else TAGS.index(row["ner_tags"][word]))
            before = word
        assert dataset.labels[start:end].tolist() == expected
    assert dataset.weights(np.arange(12)).tolist() == [
        sum(label != IGNORED for label in dataset.labels[start:end])
        for start, end in zip(dataset.offsets, dataset.offsets[1:], strict=False)
    ]
    assert dataset.classes(np.arange(12)).tolist() == sorted(
        {TAGS.index(tag) for row in rows for tag in row["ner_tags"]}
    )


def test_every_word_gets_its_tag_back(tmp_path: Path) -> None:
    """Logits that say the truth: the tags of the file, and nothing for words beyond the window."""
    folder, rows = save_bert(tmp_path / "model"), tagged_rows(12, seed=3)
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    dataset = Dataset.load(source, Path(folder) / "tokenizer.json", manifest_of(6, TAGS, TASK))
    targets = dataset.targets(np.arange(12), 6)
    logits = np.eye(len(TAGS), dtype=np.float32)[targets.clip(min=0)]
    found = task_named(TASK).predictions(dataset, np.arange(12), logits, TAGS)
    cut = 0
    for row, said in zip(rows, found, strict=True):
        kept = [tag for tag in said.value if tag is not None]
        assert kept == row["ner_tags"][: len(kept)]
        assert len(said.value) == len(row["tokens"])
        cut += len(kept) < len(row["tokens"])
    assert 0 < cut < 12
    counts = task_named(TASK).counts(dataset, np.arange(12), logits)
    assert counts == (12, 12, 12.0)
    assert task_named(TASK).counts(dataset, np.arange(12), -logits).correct < 12


def test_a_tag_of_another_file_is_named(tmp_path: Path) -> None:
    rows = [{"tokens": ["a"], "ner_tags": ["O"]}, {"tokens": ["b"], "ner_tags": ["B-ORG"]}]
    source = task_named(TASK).source(write_rows(tmp_path / "rows.jsonl", rows))
    with pytest.raises(BadInputError, match="line 2: label 'B-ORG' is not one of the model's"):
        Dataset.load(source, Path(save_bert(tmp_path / "bert")) / "tokenizer.json", manifest_of(16, TAGS, TASK))


def test_tags_are_not_read_to_predict(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"tokens": ["the", "stones"]}) + "\n")
    tokenizer = Path(save_bert(tmp_path / "bert")) / "tokenizer.json"
    dataset = task_named(TASK).to_predict(file, RowOptions(), tokenizer, manifest_of(16, TAGS, TASK))
    assert not dataset.learnable(np.arange(1)).any()
    logits = np.zeros((1, 8, 4), dtype=np.float32)
    (said,) = task_named(TASK).predictions(dataset, np.arange(1), logits, TAGS)
    assert (said.text, said.value) == ("O O", ["O", "O"])
