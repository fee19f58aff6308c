import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fwdllm_client.data import Dataset
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.manifest import BundleFile, Manifest, Stage
from fwdllm_common.prompt import Prompt

FILE = BundleFile("file", "0" * 64, 0)


@pytest.fixture
def manifest():
    return Manifest(
        labels=("neg", "pos"),
        max_tokens=5,
        pad_token_id=7,
        tokenizer=FILE,
        layout=Layout((TensorSpec("w", (1,), "head"),)),
        stages=(Stage(None, FILE, None, (), False, 1, 1), Stage("head", FILE, None, (), False, 2, 2)),
    )


def tokenizer_file(folder: Path, special: bool) -> Path:
    words = {word: index for index, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    # Settings that a published tokenizer.json may carry and that are not the bundle's.
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def load(folder: Path, text: str, manifest: Manifest, special: bool = True) -> Dataset:
    (folder / "data.csv").write_text(text)
    return Dataset.load(DataSource(folder / "data.csv"), tokenizer_file(folder, special), manifest)


def test_rows_are_cut_and_flat(tmp_path, manifest):
    dataset = load(tmp_path, "text,label\na b,pos\na b c a b c,neg\nzzz,pos\n", manifest)
    assert len(dataset) == 3
    assert dataset.token_ids.tolist() == [1, 3, 4, 2, 1, 3, 4, 5, 2, 1, 0, 2]
    assert dataset.offsets.tolist() == [0, 4, 9, 12]
    assert dataset.lengths.tolist() == [4, 5, 3]
    assert dataset.labels.tolist() == [1, 0, 1]
    assert (dataset.token_ids.dtype, dataset.offsets.dtype, dataset.labels.dtype) == (np.int32, np.int64, np.int32)


def test_a_text_without_tokens_becomes_padding(tmp_path, manifest):
    dataset = load(tmp_path, 'text,label\n"",pos\na,neg\n', manifest, special=False)
    assert dataset.token_ids.tolist() == [7, 3]
    assert dataset.offsets.tolist() == [0, 1, 2]


def test_many_rows_keep_their_order(tmp_path, manifest):
    words = np.random.default_rng(0).choice(["a", "b", "c", "a b", "c c b"], size=1000)
    dataset = load(tmp_path, "text,label\n" + "".join(f"{word},pos\n" for word in words), manifest, special=False)
    ids = {"a": 3, "b": 4, "c": 5}
    assert dataset.token_ids.tolist() == [ids[word] for text in words for word in text.split()]


def test_a_text_is_cut_inside_its_prompt(tmp_path, manifest):
    text = 'text,label\na,pos\na a a b,neg\n"",pos\n'
    plain = load(tmp_path, text, manifest, special=False)
    prompted = dataclasses.replace(manifest, prompt=Prompt("c {text} b c"))
    dataset = load(tmp_path, text, prompted, special=False)
    rows = np.split(dataset.token_ids, dataset.offsets[1:-1])
    assert [row.tolist() for row in rows] == [[5, 3, 4, 5], [5, 3, 3, 4, 5], [5, 4, 5]]
    assert dataset.fingerprint != plain.fingerprint, "the cache is named by it"


def test_an_unknown_label_is_named_with_its_line(tmp_path, manifest):
    with pytest.raises(
        BadInputError, match=r"data\.csv, line 3: label 'Pos' is not one of the model's \('neg', 'pos'\)"
    ):
        load(tmp_path, "text,label\na,pos\nb,Pos\n", manifest)


def test_a_long_list_of_labels_is_shortened(tmp_path, manifest):
    many = dataclasses.replace(manifest, labels=tuple(f"l{index}" for index in range(100)))
    with pytest.raises(BadInputError, match="'l19' and 80 more"):
        load(tmp_path, "text,label\na,pos\n", many)


def test_a_damaged_tokenizer_is_named(tmp_path, manifest):
    (tmp_path / "data.csv").write_text("text,label\na,pos\n")
    (tmp_path / "tokenizer.json").write_text('{"model":')
    with pytest.raises(BadInputError, match=r"tokenizer\.json: not a tokenizer file"):
        Dataset.load(DataSource(tmp_path / "data.csv"), tmp_path / "tokenizer.json", manifest)


def test_the_fingerprint_names_tokens_and_labels(tmp_path, manifest):
    first = load(tmp_path, "text,label\na b,pos\nc,neg\n", manifest, special=False)
    same = load(tmp_path, "text,label\na  b,pos\nc,neg\n", manifest, special=False)
    moved = load(tmp_path, "text,label\na,pos\nb c,neg\n", manifest, special=False)
    relabelled = load(tmp_path, "text,label\na b,neg\nc,neg\n", manifest, special=False)
    assert first.fingerprint == same.fingerprint
    assert len({first.fingerprint, moved.fingerprint, relabelled.fingerprint}) == 3
