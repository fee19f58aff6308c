"""Small random models of several architectures, saved and loaded like real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from fwdllm_client.data import Dataset
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.manifest import Manifest
from fwdllm_server.config.peft_spec import LAYER_METHODS, METHOD_KEYS, BasesKind, MethodName, PeftSpec
from fwdllm_server.model.export import STAGE_WEIGHTS, ModelInputs, export_bundle
from fwdllm_server.model.load import Pooling, load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.pooling import centre
from fwdllm_server.model.trainable import initial_theta, saved_parameters, trainable_layout

torch.set_num_threads(1)

LABELS = ("world", "sports", "business")
VOCABULARY = 50
MAX_TOKENS = 24
ROWS = np.arange(12)
"""The indices of :func:`rows`."""
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
# A wide initialisation, so that losses differ by more than rounding.
_WIDE = {"initializer_range": 0.3}

MODELS: dict[str, tuple[Pooling, Callable[[], Any]]] = {
    "bert": ("model", lambda: BertForMaskedLM(BertConfig(**_SIZES, **_WIDE))),
    "bert-mean": ("mean", lambda: BertModel(BertConfig(**_SIZES, **_WIDE))),
    "bert-layer-means": ("layer-means", lambda: BertModel(BertConfig(**_SIZES, **_WIDE))),
    "distilbert": (
        "model",
        lambda: DistilBertForMaskedLM(
            DistilBertConfig(
                vocab_size=VOCABULARY, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=40, **_WIDE
            )
        ),
    ),
    "roberta": ("model", lambda: RobertaForMaskedLM(RobertaConfig(**_SIZES, **_WIDE, pad_token_id=0))),
    "albert": ("model", lambda: AlbertForMaskedLM(AlbertConfig(**_SIZES, **_WIDE, embedding_size=16))),
    "modernbert": (
        "model",
        lambda: ModernBertForMaskedLM(
            ModernBertConfig(
                **_SIZES, **_WIDE, pad_token_id=0, bos_token_id=1, eos_token_id=1, cls_token_id=1, sep_token_id=1
            )
        ),
    ),
    "llama": ("model", lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, **_WIDE, num_key_value_heads=2, eos_token_id=0))),
}


# Texts without labels, for methods that look at activations.
TEXTS = [" ".join(f"w{2 + (7 * i + 3 * j) % 48}" for j in range(3 + i % 9)) for i in range(40)]


def spec_of(model: str, method: MethodName, bases: BasesKind | None = None) -> PeftSpec:
    """A small adapter; all layers of ALBERT are one, in the others the lowest stays frozen."""
    if method not in LAYER_METHODS:
        return PeftSpec(method=method)
    options: dict[str, Any] = {"rank": 2} if "rank" in METHOD_KEYS[method] else {}
    if bases is not None:
        options["bases"] = bases
    return PeftSpec(method=method, layers=None if model == "albert" else [-2, -1], **options)


# LLaMA has no biases.
_UNFIT = [("llama", "bitfit")]
# What is exported once per session and goes through the common tests: every architecture, every method.
CASES: dict[str, tuple[str, PeftSpec]] = {
    **{model: (model, spec_of(model, "lora")) for model in MODELS},
    **{
        f"{model}-{method}": (model, spec_of(model, method))
        for model in ("bert", "llama")
        for method in LAYER_METHODS
        if method != "lora" and (model, method) not in _UNFIT
    },
    "bert-lora-xs-activations": ("bert", spec_of("bert", "lora-xs", "activations")),
}


@dataclass(frozen=True)
class Prepared:
    """A model with its adapter, and the bundle made from it."""

    source: str
    pooling: Pooling
    model: Any
    layout: Layout
    folder: Path
    manifest: Manifest

    def theta(self, copies: int, seed: int = 0) -> Float32Vector:
        """Different random copies of θ around the initial one, float32 ``[copies, d]``."""
        noise = np.random.default_rng(seed).normal(0, 0.2, (copies, self.layout.size))
        return (initial_theta(self.model, self.layout) + noise).astype(np.float32)


def save_model(name: str, folder: Path) -> str:
    """Write the random model called ``name`` and a tokenizer for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        MODELS[name][1]().save_pretrained(folder)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(4)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def prepare(
    source: str, pooling: Pooling, spec: PeftSpec, folder: Path, stage_weights: int = STAGE_WEIGHTS
) -> Prepared:
    """Load, adapt, export."""
    tokenizer = load_tokenizer_file(source)
    sample = TextSample(TEXTS, tokenizer, MAX_TOKENS)
    base = load_base(source, LABELS, pooling)
    centre(base, sample.batches())
    model = apply_peft(base, spec, 3, sample)
    manifest = export_bundle(model, ModelInputs(tokenizer, MAX_TOKENS, LABELS), folder, stage_weights=stage_weights)
    return Prepared(source, pooling, model, trainable_layout(model), folder, manifest)


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Random texts of unequal lengths, padded at the end with token 0."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, VOCABULARY, (rows, tokens))
    lengths = rng.integers(2, tokens + 1, rows)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": rng.integers(0, len(LABELS), rows)}


def run_stages(
    prepared: Prepared, feeds: dict[str, NDArray[np.int64]], theta: dict[str, Float32Vector]
) -> tuple[Float32Vector, Float32Vector]:
    """Loss ``[N]`` and logits of the stage chain in ONNX Runtime; ``theta`` is ``[P, block size]`` by block."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    values: dict[str, Any] = dict(feeds)
    for stage in prepared.manifest.stages:
        session = onnxruntime.InferenceSession(
            prepared.folder / stage.graph.name, options, providers=["CPUExecutionProvider"]
        )
        assert tuple(value.name for value in session.get_inputs()) == stage.inputs
        if stage.block is not None:
            values["theta"] = theta[stage.block]
        *outputs, last = session.run(None, {name: values[name] for name in stage.inputs})
        assert last.shape[-1] == stage.width
        if not outputs:
            assert last.ndim == (3 if stage.per_token else 2)
            values["activation"] = last
    return outputs[0], last


def load_theta(model: PeftModel, layout: Layout, theta: Float32Vector) -> None:
    """Write θ into the live parameters, where PEFT's own forward pass reads it."""
    parameters = saved_parameters(model)
    with torch.no_grad():
        for name, value in layout.unpack(theta).items():
            parameters[name].copy_(torch.from_numpy(value.copy()))


def by_block(layout: Layout, theta: Float32Vector) -> dict[str, Float32Vector]:
    """θ ``[P, d]`` cut into its blocks."""
    return {name: np.ascontiguousarray(theta[:, block.slice]) for name, block in layout.blocks.items()}


@pytest.fixture(scope="session")
def bert_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def prepared_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    """Each case by name, exported once per session."""
    made: dict[str, Prepared] = {}

    def get(name: str) -> Prepared:
        if name not in made:
            model, spec = CASES[name]
            folder = tmp_path_factory.mktemp(name)
            made[name] = prepare(save_model(model, folder / "model"), MODELS[model][0], spec, folder / "bundle")
        return made[name]

    return get


@pytest.fixture(scope="session", params=list(CASES))
def prepared(request: pytest.FixtureRequest, prepared_models: Callable[[str], Prepared]) -> Prepared:
    return prepared_models(request.param)


@pytest.fixture(scope="session")
def prepared_bert(prepared_models: Callable[[str], Prepared]) -> Prepared:
    return prepared_models("bert")


def rows() -> Dataset:
    """Random texts of all lengths with random labels, as many as ROWS."""
    random = np.random.default_rng(5)
    lengths = random.integers(2, MAX_TOKENS + 1, len(ROWS))
    tokens = random.integers(2, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Dataset(tokens, offsets, random.integers(0, len(LABELS), len(ROWS)).astype(np.int32))
