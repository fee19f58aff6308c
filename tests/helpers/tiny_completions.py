"""Prompts that a tiny decoder can learn to complete: the answer depends on one word of the prompt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ANSWERS = {"sun": "bright day", "moon": "dark night", "rain": "wet street"}
_COMMON = ("the", "old", "house", "by", "a", "river", "was", "built", "long", "ago", "of", "grey", "stone")
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
_ROLES = ("user:", "assistant:", "system:")
WORDS = (*_SPECIAL, *_ROLES, *_COMMON, *ANSWERS, *(word for answer in ANSWERS.values() for word in answer.split()))
CHATML = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + ' </s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def save_language_model(folder: Path, chat_template: str | None = CHATML, tied: bool = True, unused: int = 0) -> str:
    """A random LLaMA of two layers with a language model's head, and a tokenizer of words, some of them ``unused``."""
    words = (*WORDS, *(f"unused{index}" for index in range(unused)))
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def completions(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows with a prompt of 2 to 9 words and the completion that goes with one of them."""
    choose = random.Random(seed)
    found = []
    for _ in range(rows):
        words = choose.choices(_COMMON, k=choose.randint(1, 8))
        key = choose.choice(tuple(ANSWERS))
        words.insert(choose.randrange(len(words) + 1), key)
        found.append({"prompt": " ".join(words), "completion": f" {ANSWERS[key]}"})
    return found


def as_messages(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """The row as a conversation of two turns."""
    answer = row["completion"].strip()
    return {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> Path:
    """JSON Lines of ``rows``."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
