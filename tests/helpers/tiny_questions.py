"""Questions that a tiny encoder can learn to answer: the answer is the only name in a context of common words."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = ("ada", "alan", "grace", "edsger", "barbara", "donald")
_COMMON = ("the", "old", "house", "by", "a", "river", "was", "built", "long", "ago", "of", "grey", "stone")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = (*_SPECIAL, "who", "?", *_COMMON, *NAMES)
_SIZES = {
    "vocab_size": len(_WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.1,
}


def save_encoder(folder: Path) -> str:
    """A random BERT of two layers, and a tokenizer that puts separators around question and context."""
    pair = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _WORDS.index("[CLS]")), ("[SEP]", _WORDS.index("[SEP]"))],
    )
    _save_tokenizer(folder, pair)
    BertModel(BertConfig(**_SIZES)).save_pretrained(folder)
    return str(folder)


def save_decoder(folder: Path) -> str:
    """A random LLaMA of two layers with a language model's head, and a tokenizer that puts nothing in between."""
    _save_tokenizer(folder, None)
    config = LlamaConfig(**_SIZES, num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def write_questions(path: Path, rows: int, seed: int) -> Path:
    """JSON Lines of ``rows`` questions, whose contexts have 4 to 11 words."""
    choose = random.Random(seed)
    lines = []
    for _ in range(rows):
        words = choose.choices(_COMMON, k=choose.randint(3, 10))
        name = choose.choice(NAMES)
        words.insert(choose.randrange(len(words) + 1), name)
        context = " ".join(words)
        row = {"question": "who ?", "context": context, "answer_start": context.index(name), "answer": name}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _save_tokenizer(folder: Path, pair: processors.TemplateProcessing | None) -> None:
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    if pair is not None:
        backend.post_processor = pair
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
