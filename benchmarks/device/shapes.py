"""Models of true size with random weights: memory and speed do not depend on what the numbers are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import AutoModel, BertConfig, PreTrainedConfig, RobertaConfig

from benchmarks.device.accuracy import SCALARS_FILE, scalars_of
from benchmarks.device.workplace import THETA_FILE, TOKENS, Workplace
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.precision import Precision
from fwdllm_server.config.presets import with_preset
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import TokenizerFile
from fwdllm_server.model.modeling_fwdllm import MeanPooledClassifier
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.model.trainable import initial_theta

LABELS = ("a", "b", "c", "d")
_SEED = 1
_PAD = 1


@dataclass(frozen=True)
class Shape:
    """An encoder by its config and what its frozen weights are; ``title`` is what tables call it."""

    name: str
    title: str
    config: PreTrainedConfig
    precision: Precision = "float32"


def _sizes(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * hidden, "pad_token_id": _PAD}


_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}

SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("minilm", "MiniLM-L6 (22.7 M)", BertConfig(**_sizes(384, 6, 12))),
        Shape("bert_base", "BERT-base (109 M), int4", BertConfig(**_sizes(768, 12, 12)), "int4"),
        Shape(
            "roberta_large",
            "RoBERTa-large (354 M), int4",
            RobertaConfig(**_ROBERTA, **_sizes(1024, 24, 16)),
            "int4",
        ),
    )
}
QUICK_SHAPE = Shape("tiny", "tiny (0.3 M)", BertConfig(vocab_size=500, **_sizes(64, 4, 4)))


def shape_called(name: str) -> Shape:
    """Return the shape of that name, the quick run's included."""
    return {**SHAPES, QUICK_SHAPE.name: QUICK_SHAPE}[name]


def new_model(shape: Shape) -> nn.Module:
    """Return the classifier with random weights, always the same, in eval mode and frozen."""
    torch.manual_seed(_SEED)
    backbone = AutoModel.from_config(shape.config, add_pooling_layer=False)
    model: nn.Module = MeanPooledClassifier.over(backbone, len(LABELS)).float().eval()
    return model.requires_grad_(False)


def upper_layers() -> PeftSpec:
    """Return what the preset ``upper-layers`` trains beside the head, which is all that ``default`` trains."""
    return PeftSpec(**with_preset({"preset": "upper-layers"})["peft"])


def export_shape(shape: Shape, folder: Path) -> Manifest:
    """Export a shape with the PEFT method of ``upper-layers``, and θ₀ beside it, unless ``folder`` exists."""
    if folder.exists():
        return Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
    # One word for each id: no text is ever tokenised, but for the sample that the bases of LoRA-FA are made from.
    words = {f"w{index}": index for index in range(shape.config.vocab_size)}
    tokenizer = TokenizerFile(Tokenizer(WordLevel(words, unk_token="w0")).to_str().encode(), _PAD)  # noqa: S106
    random = np.random.default_rng(_SEED)
    texts = [f"w{index}" for index in random.integers(2, shape.config.vocab_size, 64)]
    model = apply_peft(new_model(shape), upper_layers(), _SEED, TextSample(texts, tokenizer, TOKENS))
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    manifest = export_bundle(model, ModelInputs(tokenizer, TOKENS, LABELS), part)
    np.save(part / THETA_FILE, initial_theta(model, manifest.layout))
    if shape.precision != "float32":
        place = Workplace(shape.name, part, part, 0, shape.config.vocab_size)
        exact = scalars_of(place)
        manifest = quantise_bundle(part, manifest, shape.precision)
        np.save(part / SCALARS_FILE, [exact, scalars_of(place)])
    part.rename(folder)
    return manifest
