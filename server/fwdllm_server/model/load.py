"""The load of a Hugging Face checkpoint as a task's model in float32, and of its tokenizer as one portable file."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)
from transformers.utils import logging as transformers_logging

from fwdllm_common.chat import DEFAULT_TEMPLATE, Chat
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.model.architecture import head_name, last_linear, layer_stack
from fwdllm_server.model.backbone import check_backbone, load_with_backbone, new_keys
from fwdllm_server.model.modeling_fwdllm import MeanPooledClassifier, without_pooler
from fwdllm_server.model.pooling import first_and_middle, projected_width
from fwdllm_server.tasks import Task, task_named

Pooling = Literal["model", "mean", "layer-means"]

_INIT_SEED = 0
_GGUF = ".gguf"
_NO_VOCABULARY = "{!r} has no tokenizer; put its files there, such as tokenizer.json"
# What readers of checkpoints raise; ImportError names a package that this kind of checkpoint needs.
_LOAD_ERRORS = (OSError, ValueError, IndexError, struct.error, ImportError)


class TokenizerFile(NamedTuple):
    """A fast tokenizer as the bytes of its ``tokenizer.json``, without padding or truncation, and its padding id."""

    json: bytes
    pad_token_id: int


def load_base(
    source: str,
    labels: Sequence[str],
    pooling: Pooling,
    random_head: bool = False,
    task: str = CLASSIFICATION,
    most_projected: int = 0,
) -> nn.Module:
    """Load the model to be tuned: eval mode, float32, every parameter frozen.

    ``source`` is a folder, a hub id, or a ``.gguf`` file, whose weights become float32. With ``pooling="model"`` the
    model is transformers' class for the ``task``; with ``"mean"`` it is a :class:`MeanPooledClassifier`; with
    ``"layer-means"`` that also reads the embeddings and the middle layer and is still to be centred, and
    projected if there are many labels and ``most_projected`` directions suffice. A head that the checkpoint lacks
    starts at zero, so that it predicts all classes or spans alike, unless ``random_head`` is set. The attribute
    ``newly_made`` names the modules that the checkpoint lacks.

    :raises BadInputError: no such model, no head for it, weights of the backbone are missing, or fewer than two labels.
    """
    named = task_named(task)
    if "labels" in named.keys and (len(labels) < 2 or len(set(labels)) != len(labels)):
        raise BadInputError("at least two labels are needed, and no label twice")
    for key, is_given in {"labels": bool(labels), "pooling": pooling != "model"}.items():
        if is_given and key not in named.keys:
            raise BadInputError(f"{task} has no {key}")
    config = _load_config(source, labels)
    with _reproducible_init(), quiet_transformers():
        try:
            model, made = _load_model(source, config, pooling, named)
        except _LOAD_ERRORS as error:
            raise _cannot_load(source, error) from error
    check_backbone(model, made, source)
    if made and not named.has_head:
        raise BadInputError(f"{source!r} holds no language model's head; {task} needs a causal language model")
    if pooling != "model":
        pooled = first_and_middle(model) if pooling == "layer-means" else ()
        with _reproducible_init():
            outputs = named.scores or len(labels)
            width = (len(pooled) + 1) * config.get_text_config().hidden_size
            projected = projected_width(outputs, width, most_projected) if pooled else 0
            model = MeanPooledClassifier.over(model, outputs, layer_stack(model) if pooled else "", pooled, projected)
        new_parts = ("classifier", "centring", "projection")
        made = {f"backbone.{key}" for key in made}
        made |= {f"{part}.{key}" for part in new_parts for key in model.get_submodule(part).state_dict()}
    model.newly_made = sorted({key.rpartition(".")[0] for key in made})
    if not random_head:
        _zero_new_head(model, made)
    return model.float().eval().requires_grad_(False)  # type: ignore[no-any-return]


def has_new_head(base: nn.Module) -> bool:
    """Return whether the layer that computes the logits was newly initialised when the base was loaded."""
    head = head_name(base)
    layer, _ = last_linear(base.get_submodule(head))
    made: Sequence[str] = getattr(base, "newly_made", ())
    return ".".join(filter(None, (head, layer))) in made


def load_word_rows(source: str) -> Tensor:
    """Load the output matrix of the language model in ``source``, float32 ``[vocabulary, hidden]``.

    :raises BadInputError: no such model, or it is not a language model with a head that is these rows alone.
    """
    config = _load_config(source, ())
    with quiet_transformers():
        try:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                **_weights(source), config=config, dtype=torch.float32, output_loading_info=True
            )
        except _LOAD_ERRORS as error:
            raise _cannot_load(source, error) from error
    head = model.get_output_embeddings()
    if loaded["missing_keys"] or head is None:
        raise BadInputError(f"{source!r} holds no language model's head; a verbaliser needs a causal language model")
    if getattr(head, "bias", None) is not None:
        raise BadInputError(f"the language model's head in {source!r} has a bias, which a classifier's has not")
    return head.weight.detach()  # type: ignore[no-any-return]


def load_tokenizer_file(source: str) -> TokenizerFile:
    """Load the tokenizer of ``source`` as the file that devices read.

    :raises BadInputError: no such model, no fast tokenizer, or no token to pad with.
    """
    config = _load_config(source, ())
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source_location(source))
        except Exception as error:  # the tokenizers package raises plain Exception, converters whatever they like
            raise _no_tokenizer(source, error) from error
    if not tokenizer.is_fast:
        raise BadInputError(f"{source!r} has no fast tokenizer; a model with a tokenizer.json is needed")
    backend = tokenizer.backend_tokenizer
    # Where its files are missing, transformers makes a tokenizer of special tokens alone, at times with the space.
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if len(backend.get_vocab(with_added_tokens=False).keys() - added) <= 1:
        raise BadInputError(_NO_VOCABULARY.format(source))
    backend.no_padding()
    backend.no_truncation()
    pad_token_id = _pad_token_id(config) if _pad_token_id(config) is not None else tokenizer.pad_token_id
    if pad_token_id is None:
        raise BadInputError(f"{source!r} names no padding token; set pad_token_id in its config.json")
    return TokenizerFile(backend.to_str().encode(), int(pad_token_id))


def load_chat(source: str) -> Chat:
    """Load the chat template and the special tokens of ``source``; without a template it is the default one.

    :raises BadInputError: no such model.
    """
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source_location(source))
        except Exception as error:  # as in load_tokenizer_file
            raise _no_tokenizer(source, error) from error
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {name: str(token) for name in names if (token := getattr(tokenizer, name, None))}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return Chat(template or DEFAULT_TEMPLATE, tokens)


def check_vocabulary(base: nn.Module, tokenizer: TokenizerFile, source: str) -> None:
    """Check that the model ``base`` of ``source`` has an embedding for every token of its tokenizer.

    :raises BadInputError: a token, or that to pad with, has none.
    """
    model: Any = base.backbone if isinstance(base, MeanPooledClassifier) else base
    rows = int(model.get_input_embeddings().weight.shape[0])
    vocabulary = Tokenizer.from_str(tokenizer.json.decode()).get_vocab()
    token, index = max(vocabulary.items(), key=lambda item: item[1])
    if max(index, tokenizer.pad_token_id) >= rows:
        what = f"{token!r} of its tokenizer" if index >= rows else "to pad with"
        raise BadInputError(
            f"{source!r} has embeddings for the tokens 0 to {rows - 1}, and none for token "
            f"{max(index, tokenizer.pad_token_id)}, {what}; resize the model with "
            "model.resize_token_embeddings(len(tokenizer)) and save it, or take the added tokens out of tokenizer.json"
        )


def model_type(source: str) -> str:
    """Return transformers' name (``model_type``) of the architecture of ``source``.

    :raises BadInputError: no such model.
    """
    return str(_load_config(source, ()).model_type)


def source_location(source: str) -> dict[str, str]:
    """Return the arguments with which transformers finds ``source``: a GGUF file is named within its folder."""
    path = Path(source)
    if path.suffix != _GGUF:
        return {"pretrained_model_name_or_path": source}
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def _weights(source: str) -> dict[str, Any]:
    location = source_location(source)
    # Else the model counts as quantised, which PEFT's layers and saving are not made for.
    return {**location, "quantization_config": GgufConfig(dequantize=True)} if "gguf_file" in location else location


def _load_config(source: str, labels: Sequence[str]) -> Any:
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    try:
        config = AutoConfig.from_pretrained(**source_location(source), **(names if labels else {}))
    except _LOAD_ERRORS as error:
        raise _cannot_load(source, error) from error
    # Decoders find the last token of a text by this id; many checkpoints leave it unset.
    config.get_text_config().pad_token_id = _pad_token_id(config)
    return config


def _pad_token_id(config: Any) -> int | None:
    """Return the model's own padding id, else its end-of-text id, so that model and tokenizer file agree."""
    text = config.get_text_config()
    pad: int | None = getattr(text, "pad_token_id", None)  # models of images have none
    if pad is not None and pad >= 0:
        return int(pad)
    eos: int | list[int] | None = getattr(text, "eos_token_id", None)
    return eos[0] if isinstance(eos, list) else eos


def _load_model(source: str, config: Any, pooling: Pooling, task: Task) -> tuple[Any, set[str]]:
    """Load the model; return it with its newly initialised tensors."""
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, "output_loading_info": True}
    options |= _weights(source)
    if task.scores is not None:
        config.num_labels = task.scores
    if task.problem is not None:
        config.problem_type = task.problem
    if pooling == "model":
        return load_with_backbone(getattr(transformers, task.auto_class), options)
    model, loaded = AutoModel.from_pretrained(**options, **without_pooler(config))
    return model, new_keys(loaded)


def _zero_new_head(model: nn.Module, made: set[str]) -> None:
    """Zero the layer that computes the logits, and only it: zeros in the layers below would stop the gradient."""
    head = head_name(model)
    layer, module = last_linear(model.get_submodule(head))
    if ".".join(filter(None, (head, layer, "weight"))) in made:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def _cannot_load(source: str, error: Exception) -> BadInputError:
    if Path(source).suffix == _GGUF:
        if not Path(source).is_file():
            return BadInputError(f"no model file {source!r}; give an existing one")
        return BadInputError(f"the file {source!r} holds no usable model ({_first_line(error)})")
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        return BadInputError(f"no model folder {source!r}; give an existing folder or a hub id")
    if Path(source).is_dir():
        return BadInputError(f"the folder {source!r} holds no usable model ({_first_line(error)})")
    return BadInputError(
        f"no model {source!r}: no such folder, not in the local cache, and the hub does not give it "
        f"({_first_line(error)})"
    )


def _no_tokenizer(source: str, error: Exception) -> BadInputError:
    text = str(error)
    if "instantiate the backend tokenizer" in text:
        return BadInputError(_NO_VOCABULARY.format(source))
    # Without the package transformers takes a SentencePiece model for one of tiktoken's.
    if find_spec("sentencepiece") is None and re.search("`tiktoken` is required|SentencePiece library", text):
        return BadInputError(
            f"the tokenizer of {source!r} is a SentencePiece model without a tokenizer.json; "
            "pip install sentencepiece where the coordinator runs, or put a tokenizer.json beside it"
        )
    return _cannot_load(source, error)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _reproducible_init() -> Iterator[None]:
    """Seed torch, so that modules that the checkpoint lacks get the same values in every load."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_INIT_SEED)
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' reports of missing heads and unused pooling layers, which :func:`load_base` handles."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
