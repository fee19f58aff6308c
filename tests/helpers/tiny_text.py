"""A tiny encoder and a task that it can learn: rows of words, each class with words of its own."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

LABELS = ("arts", "law", "sport")
_WORDS = {
    "arts": ["paint", "stage", "song", "poem", "film", "dance"],
    "law": ["court", "judge", "trial", "clause", "verdict", "appeal"],
    "sport": ["goal", "match", "race", "team", "score", "coach"],
}
_COMMON = ["the", "a", "of", "in", "on", "at", "new", "old", "big", "small"]


def save_tiny_model(folder: Path) -> Path:
    """A random BERT of three layers, 32 wide, with a tokenizer of whole words."""
    words = ["[PAD]", "[UNK]", *_COMMON, *(word for words in _WORDS.values() for word in words)]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.02,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: int, seed: int) -> Path:
    """A CSV file of ``rows`` texts of 4 to 12 words, most of them their class's own."""
    choose = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for _ in range(rows):
            label = choose.choice(LABELS)
            words = [
                choose.choice(_WORDS[label] if choose.random() < 0.8 else _COMMON) for _ in range(choose.randint(4, 12))
            ]
            writer.writerow((" ".join(words), label))
    return path
