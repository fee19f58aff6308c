"""The rows, CLINC150's intents as phrases to be generated, and the model as a folder that loads fast."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from examples.materials import smollm2_file
from fwdllm_client.tasks.causal_lm.rows import CompletionSource
from fwdllm_client.tasks.causal_lm.tokens import CompletionDataset, tokenise
from fwdllm_server.model.load import load_chat, load_tokenizer_file, source_location
from fwdllm_server.preparation.evaluation import split_held_out

MAX_TOKENS = 64
VALIDATION_SHARE = 0.5
_TRAINING, _HELD_OUT = 10, 3
"""Rows of an intent: for the devices; for validation and for the test each."""
_SEED = 0


@dataclass(frozen=True)
class Files:
    """Where everything is that both sides read; training rows are the devices'."""

    folder: Path

    @property
    def model(self) -> Path:
        """The folder of the model in float32, with its tokenizer."""
        return self.folder / "model"

    @property
    def training(self) -> Path:
        """The rows of the devices."""
        return self.folder / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """The rows for validation and for the test, which a job tells apart as :func:`tokenised` does."""
        return self.folder / "held_out.jsonl"


class Rows(NamedTuple):
    """All held-out rows together, and which of them are for what."""

    training: CompletionDataset
    held_out: CompletionDataset
    test: NDArray[np.int64]
    validation: NDArray[np.int64]


def prepare(data: Path, folder: Path, intents: int) -> Files:
    """Write the rows of so many intents into ``folder``, and the model of the package, if it is not there yet."""
    files = Files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    names = sorted({intent for _, intent in parts["train"]})
    chosen = random.Random(_SEED).sample(names, intents)  # noqa: S311, not for secrets
    validation, test = (list(_some(parts[part], chosen, _HELD_OUT)) for part in ("val", "test"))
    held_out = np.empty(len(test) + len(validation), dtype=object)
    places = split_held_out(len(held_out), VALIDATION_SHARE)
    held_out[places.reported], held_out[places.validation] = test, validation
    _write(files.training, _some(parts["train"], chosen, _TRAINING))
    _write(files.held_out, held_out)
    if not (files.model / "config.json").exists():
        _convert(smollm2_file(), files.model)
    return files


def tokenised(files: Files) -> Rows:
    """Return the rows as devices and the coordinator tokenise them."""
    tokenizer, chat = files.folder / "tokenizer.json", load_chat(str(files.model))
    tokenizer.write_bytes(load_tokenizer_file(str(files.model)).json)
    training, held_out = (
        tokenise(CompletionSource(path), tokenizer, MAX_TOKENS, chat) for path in (files.training, files.held_out)
    )
    shares = split_held_out(len(held_out), VALIDATION_SHARE)
    return Rows(training, held_out, shares.reported, shares.validation)


def _some(pairs: Iterable[Sequence[str]], intents: Sequence[str], count: int) -> Iterator[Mapping[str, str]]:
    """Yield the first ``count`` rows of each of the intents, mixed."""
    texts: dict[str, list[str]] = defaultdict(list)
    for text, intent in pairs:
        texts[intent].append(text)
    rows = [(text, intent) for intent in intents for text in texts[intent][:count]]
    random.Random(_SEED).shuffle(rows)  # noqa: S311, not for secrets
    for text, intent in rows:
        yield {"prompt": f"Request: {text}\nIntent:", "completion": f" {intent.replace('_', ' ')}"}


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _convert(source: Path, folder: Path) -> None:
    """Write the weights of a GGUF file as float32: they are dequantised once, not at every start."""
    location = source_location(str(source))
    model = AutoModelForCausalLM.from_pretrained(
        **location, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**location).save_pretrained(folder)
