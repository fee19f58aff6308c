"""The adapter before training, in PEFT's format, with the base model that it belongs to."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers
from peft import PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import AutoTokenizer

from fwdllm_common.files import sync
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.model import modeling_fwdllm
from fwdllm_server.model.adapter import ADAPTER_CONFIG, ADAPTER_FILE, BASE_FOLDER
from fwdllm_server.model.load import TokenizerFile, quiet_transformers, source_location
from fwdllm_server.model.modeling_fwdllm import MeanPooledClassifier
from fwdllm_server.model.peft.bottleneck import bottleneck_widths
from fwdllm_server.tasks import all_tasks, task_named

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WRAPPED = re.compile(r"\.(modules_to_save|original_module)\.")
_PEFTS_OWN = re.compile(r"\.(lora_\w+|ia3_l|modules_to_save)(\.|$)")
_WRAPPERS = re.compile(r"\.(base_layer|original_module)(?=\.)")
_WITH_BOTTLENECKS = '''"""{model} of transformers with a bottleneck behind some of its modules."""

from transformers import MODEL_MAPPING, {config}, {model}

from .modeling_fwdllm import insert_bottlenecks


class BottleneckConfig({config}):
    """The configuration of a base with ``bottlenecks``, whose widths are keyed by the path of the module."""

    model_type = "fwdllm-{kind}"


class BottleneckModel({model}):
    """See :class:`BottleneckConfig`."""

    config_class = BottleneckConfig

    def __init__(self, config):
        super().__init__(config)
        insert_bottlenecks(self, config.bottlenecks)


# Decoders with a head look up the model below it by their configuration.
MODEL_MAPPING.register(BottleneckConfig, MODEL_MAPPING[{config}], exist_ok=True)
'''


@dataclass(frozen=True)
class Reading:
    """The way in which devices tokenise a text; users of the adapter have to do the same."""

    max_tokens: int
    task: str = CLASSIFICATION
    prompt: str | None = None
    verbaliser: Mapping[str, str] | None = None


def save_adapter_template(peft_model: PeftModel, tokenizer: Any, reading: Reading, folder: Path) -> None:
    """Write the template that :func:`fwdllm_server.model.adapter.write_adapter` completes with θ.

    The folder holds PEFT's files, the tokenizer of transformers, and in ``base`` the model below the adapter. It is
    a model with an adapter to transformers too: ``from_pretrained`` and ``pipeline`` load it as one.
    """
    model: Any = peft_model
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank form; the card is written from the run
    # With bias="all" PEFT writes the biases of modules that it saves whole once more, under its own names for them.
    tensors = load_file(folder / ADAPTER_FILE)
    kept = {name: value for name, value in tensors.items() if not _WRAPPED.search(name)}
    save_file(kept, folder / ADAPTER_FILE, metadata={"format": "pt"})
    task = task_named(reading.task)
    named = {"task_type": task.peft_type, "base_model_name_or_path": BASE_FOLDER}
    _change(folder / ADAPTER_CONFIG, named | {"auto_mapping": None, "revision": None})
    _save_base(model.get_base_model(), task.auto_class, reading, folder / BASE_FOLDER)
    _join(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.rglob("*"):
        sync(file)


def tokenizer_for(
    source: str, file: TokenizerFile, max_tokens: int, has_segments: bool = False, reads_words: bool = False
) -> Any:
    """Return transformers' tokenizer of ``source``, which truncates and pads texts as the devices do.

    With ``has_segments`` it tells the model which text of a pair a token is of, as devices then do too. If it
    ``reads_words``, a word alone has the tokens of one within a text.
    """
    options: dict[str, Any] = {}
    if has_segments:
        options["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    is_of_bytes = reads_words and isinstance(Tokenizer.from_str(file.json.decode()).pre_tokenizer, ByteLevel)
    if is_of_bytes:
        options["add_prefix_space"] = True
    tokenizer = AutoTokenizer.from_pretrained(**source_location(source), **options)
    if is_of_bytes:  # not every class has the option
        tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(file.pad_token_id)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_max_length = max_tokens
    return tokenizer


def load_base_of(adapter_folder: Path) -> nn.Module:
    """Load the model below the adapter in ``adapter_folder``, in eval mode, float32."""
    task_type = json.loads((adapter_folder / ADAPTER_CONFIG).read_bytes())["task_type"]
    auto_class = next(getattr(transformers, task.auto_class) for task in all_tasks() if task.peft_type == task_type)
    with quiet_transformers():
        model: nn.Module = auto_class.from_pretrained(adapter_folder / BASE_FOLDER, trust_remote_code=True)
    return model.eval()


def _save_base(base: Any, auto_class: str, reading: Reading, folder: Path) -> None:
    """Write the model without the adapter, and the code of the classes that transformers lacks."""
    bottlenecks = bottleneck_widths(base)
    with quiet_transformers():
        base.save_pretrained(folder, state_dict=dict(_base_tensors(base)))
    changes: dict[str, Any] = {"fwdllm": {key: value for key, value in asdict(reading).items() if value is not None}}
    if bottlenecks:
        changes["bottlenecks"] = bottlenecks
        if not isinstance(base, MeanPooledClassifier):
            kind = base.config.model_type
            code = _WITH_BOTTLENECKS.format(model=type(base).__name__, config=type(base.config).__name__, kind=kind)
            (folder / "modeling_bottlenecks.py").write_text(code)
            shutil.copy(str(modeling_fwdllm.__file__), folder)
            names = {"AutoConfig": "BottleneckConfig", auto_class: "BottleneckModel"}
            changes["model_type"] = f"fwdllm-{kind}"
            changes["architectures"] = ["BottleneckModel"]
            changes["auto_map"] = {auto: f"modeling_bottlenecks.{name}" for auto, name in names.items()}
    if isinstance(base, MeanPooledClassifier):
        # transformers takes the place out of a configuration, and leaves it in one that is part of it.
        text_config = json.loads((folder / _CONFIG).read_bytes())["text_config"]
        changes["text_config"] = {key: value for key, value in text_config.items() if key != "_name_or_path"}
    _change(folder / _CONFIG, changes)


def _base_tensors(base: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return the tensors of a model by their names without PEFT's wrappers around its modules."""
    for name, value in base.state_dict().items():
        if not _PEFTS_OWN.search(name):
            yield _WRAPPERS.sub("", name), value


def _join(folder: Path) -> None:
    """Let transformers find the base's configuration, code and weights in the adapter's own folder."""
    base = folder / BASE_FOLDER
    for file in (base / _CONFIG, *base.glob("*.py")):
        shutil.copy(file, folder)
    weight_map: dict[str, str] = {}
    size = 0
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            weight_map |= dict.fromkeys(tensors.keys(), f"{BASE_FOLDER}/{file.name}")
        size += file.stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / _INDEX).write_text(json.dumps(index, indent=2))


def _change(file: Path, changes: Mapping[str, Any]) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}, indent=2, ensure_ascii=False) + "\n")
