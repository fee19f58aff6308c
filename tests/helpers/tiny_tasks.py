"""Tiny random models and rows for the tasks of texts, pairs and tagged words, with a tokenizer like BERT's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.evaluation import held_out_texts
from fwdllm_server.preparation.job_file import read_job
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model

PEOPLE = ("ada", "alan", "grace")
PLACES = ("delft", "ghent", "york")
COMMON = ("the", "old", "house", "by", "a", "river", "was", "built", "long", "ago", "of", "grey", "stone")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Pieces of words, so that a word may be several tokens, as in BERT's own tokenizer.
WORDS = (*_SPECIAL, *COMMON, *PEOPLE, *PLACES, "##s", "##ly", "good", "bad", "fine", ".", ",")
_SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


def save_bert(folder: Path) -> str:
    """A random BERT of two layers with segments, and a WordPiece tokenizer."""
    pair = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    return _saved(folder, BertModel, BertConfig(**_SIZES), pair)


def save_roberta(folder: Path) -> str:
    """A random RoBERTa of two layers, which has no segments."""
    pair = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    config = RobertaConfig(**{**_SIZES, "type_vocab_size": 1}, pad_token_id=0)
    return _saved(folder, RobertaModel, config, pair)


def save_llama(folder: Path) -> str:
    """A random LLaMA of two layers, whose tokenizer puts nothing between the texts of a pair."""
    config = LlamaConfig(**_SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    return _saved(folder, LlamaForCausalLM, config, None)


def save_bytes(folder: Path) -> str:
    """A random RoBERTa of two layers with RoBERTa's own kind of tokenizer, of bytes, which marks spaces."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join((*COMMON, *PEOPLE, *PLACES))] * 3, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    named = {"tokenizer_class": "RobertaTokenizer", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named))
    sizes = {**_SIZES, "vocab_size": backend.get_vocab_size(), "type_vocab_size": 1}
    _save_model(folder, RobertaModel, RobertaConfig(**sizes, pad_token_id=1))
    return str(folder)


MODELS: Mapping[str, Callable[[Path], str]] = {"bert": save_bert, "roberta": save_roberta, "llama": save_llama}


def _saved(folder: Path, kind: Any, config: Any, pair: processors.TemplateProcessing | None) -> str:
    backend = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if pair is not None:
        backend.post_processor = pair
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    _save_model(folder, kind, config)
    return str(folder)


def _save_model(folder: Path, kind: Any, config: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        kind(config).save_pretrained(folder)


def words(choose: random.Random, least: int = 2, most: int = 7) -> list[str]:
    """A few common words."""
    return choose.choices(COMMON, k=choose.randint(least, most))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """JSON Lines of ``rows``."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Exported:
    """A model that was exported for a task, and rows for it."""

    source: str
    spec: JobSpec
    folder: JobFolder
    manifest: Manifest
    dataset: Dataset

    def theta(self) -> Float32Vector:
        """θ₀ moved, so that every part of the model has an effect."""
        start = np.load(self.folder.path / "initial_theta.npy")
        moved: Float32Vector = start + np.random.default_rng(3).normal(0, 0.1, start.shape)
        return moved.astype(np.float32)

    def engine(self, cache: Path) -> Engine:
        """The device's engine on the rows."""
        return Engine(self.folder.bundle, self.manifest, self.dataset, cache, threads=1)


def export(source: str, task: str, file: Path, place: Path, method: str = "lora", **model: Any) -> Exported:
    """Export the model in ``source`` for a ``task``, with what a PEFT method trains, and read the rows in ``file``."""
    keys = {"source": source, "task": task, "max_tokens": 16, **model}
    tables = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    peft = f'[peft]\nmethod = "{method}"\n' + ("" if method == "side" else "layers = [-1]\nrank = 2\n")
    trained = ("pooling", "readout", "head") if method == "side" else ("peft", "head")
    blocks = "".join(f"[blocks.{name}]\ndirections = 8\nlearning_rate = 0.1\n" for name in trained)
    text = f'[job]\nname = "tiny"\n[model]\n{tables}\n{peft}[held_out]\nfile = {json.dumps(str(file))}\n{blocks}'
    spec = read_job(text, place)
    folder = JobFolder(place / "job")
    export_model(spec, source, folder, held_out_texts(spec, place))
    manifest = Manifest.from_bytes((folder.bundle / MANIFEST_FILE).read_bytes())
    rows = task_named(task).source(file, RowOptions())
    return Exported(source, spec, folder, manifest, Dataset.load(rows, folder.bundle / "tokenizer.json", manifest))


def pair_rows(rows: int, seed: int) -> list[dict[str, Any]]:
    """Pairs whose label says whether the second text begins with a person or a place; the first says either."""
    choose = random.Random(seed)
    found = []
    for _ in range(rows):
        label, names = choose.choice((("person", PEOPLE), ("place", PLACES)))
        first = " ".join([*words(choose), choose.choice((*PEOPLE, *PLACES))])
        second = " ".join([choose.choice(names), *words(choose, 1, 4)])
        found.append({"premise": first, "hypothesis": second, "label": label})
    return found


def value_rows(rows: int, seed: int) -> list[dict[str, Any]]:
    """Texts with the difference of their numbers of people and places."""
    choose = random.Random(seed)
    found = []
    for _ in range(rows):
        text = choose.choices((*PEOPLE, *PLACES, *COMMON[:3]), k=choose.randint(3, 10))
        value = sum(word in PEOPLE for word in text) - sum(word in PLACES for word in text)
        found.append({"text": " ".join(text), "label": value / 2})
    return found


TOPICS = ("person", "place", "old")


def label_rows(rows: int, seed: int) -> list[dict[str, Any]]:
    """Texts with the labels of what is in them, of some none."""
    choose = random.Random(seed)
    found = []
    for _ in range(rows):
        text = choose.choices((*PEOPLE, *PLACES, *COMMON), k=choose.randint(3, 8))
        has = (set(text) & set(PEOPLE), set(text) & set(PLACES), "old" in text)
        found.append({"text": " ".join(text), "label": [t for t, is_in in zip(TOPICS, has, strict=True) if is_in]})
    return found


TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def tagged_rows(rows: int, seed: int) -> list[dict[str, Any]]:
    """Sentences with people of one or two names and places; some words are several tokens."""
    choose = random.Random(seed)
    found = []
    for _ in range(rows):
        tokens, tags = [], []
        for _ in range(choose.randint(2, 4)):
            kind = choose.choice(("common", "common", "person", "place"))
            if kind == "person":
                tokens += choose.sample(PEOPLE, 2)
                tags += ["B-PER", "I-PER"]
            elif kind == "place":
                tokens.append(choose.choice(PLACES))
                tags.append("B-LOC")
            else:
                tokens.append(choose.choice((*COMMON, "stones", "goodly")))
                tags.append("O")
        found.append({"tokens": tokens, "ner_tags": tags})
    return found
