"""The adapter before training, in PEFT's own format, and the model that an adapter belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from peft import PeftModel
from safetensors.numpy import load_file, save_file
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sync, write_atomically
from fwdllm_common.task import CLASSIFICATION, Task
from fwdllm_server.model.adapter import ADAPTER_FILE
from fwdllm_server.model.load import Pooling, load_base
from fwdllm_server.model.peft.bottleneck import bottleneck_widths, insert_bottlenecks
from fwdllm_server.model.peft.side import insert_side, side_of

BASE_FILE = "base.json"
_WRAPPED = re.compile(r"\.(modules_to_save|original_module)\.")


class BaseDescription(TypedDict):
    """The arguments of :func:`load_base`, and what users of a prompted model need to know."""

    source: str
    labels: Sequence[str]
    pooling: Pooling
    task: NotRequired[Task]
    prompt: NotRequired[str]
    verbaliser: NotRequired[dict[str, str]]


def save_adapter_template(peft_model: PeftModel, base: BaseDescription, folder: Path) -> None:
    """Write what :func:`write_adapter` completes with θ, and ``base.json``, which says what it belongs to."""
    model: Any = peft_model
    model.save_pretrained(folder, save_embedding_layers=False)
    # With bias="all" PEFT writes the biases of modules that it saves whole once more, under its own names for them.
    tensors = load_file(folder / ADAPTER_FILE)
    kept = {name: value for name, value in tensors.items() if not _WRAPPED.search(name)}
    save_file(kept, folder / ADAPTER_FILE, metadata={"format": "pt"})
    for file in folder.iterdir():
        sync(file)
    bottlenecks = bottleneck_widths(peft_model.get_base_model())
    description = {**base, "labels": list(base["labels"])} | ({"bottlenecks": bottlenecks} if bottlenecks else {})
    if side := side_of(peft_model.get_base_model()):
        description["side"] = side.sizes
    text = json.dumps(description, indent=2, ensure_ascii=False)
    write_atomically(folder / BASE_FILE, text.encode())


def load_base_of(adapter_folder: Path) -> nn.Module:
    """The model that the adapter in ``adapter_folder`` was made for, with a head and bottlenecks of the same kind.

    :raises BadInputError: no readable ``base.json``, or no such model.
    """
    try:
        base = json.loads((adapter_folder / BASE_FILE).read_bytes())
        source, labels, pooling = str(base["source"]), [str(label) for label in base["labels"]], base["pooling"]
        task = base.get("task", CLASSIFICATION)
        side = base.get("side")
        bottlenecks = {str(host): int(width) for host, width in base.get("bottlenecks", {}).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{adapter_folder} holds no adapter of fwdllm: {BASE_FILE} is unreadable") from error
    model = load_base(source, labels, pooling, task=task)
    insert_bottlenecks(model, bottlenecks)
    if side is not None:
        insert_side(model, side)
    return model
