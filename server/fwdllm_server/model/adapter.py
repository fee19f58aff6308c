"""The trained model in PEFT's own format, written without torch from a template and θ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import write_atomically
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_server.model.load import Pooling, load_base

ADAPTER_FILE = "adapter_model.safetensors"
BASE_FILE = "base.json"


class BaseDescription(TypedDict):
    """The arguments of :func:`load_base`."""

    source: str
    labels: Sequence[str]
    pooling: Pooling


def save_adapter_template(peft_model: PeftModel, base: BaseDescription, folder: Path) -> None:
    """Write the adapter as it is now, and ``base.json``, which says what it belongs to."""
    model: Any = peft_model
    model.save_pretrained(folder, save_embedding_layers=False)
    text = json.dumps({**base, "labels": list(base["labels"])}, indent=2, ensure_ascii=False)
    write_atomically(folder / BASE_FILE, text.encode())


def write_adapter(template_folder: Path, layout: Layout, theta: Float32Vector, out_folder: Path) -> None:
    """Write the adapter of θ, float32 ``[d]``: the template with the tensors of the layout replaced.

    ``PeftModel.from_pretrained(load_base_of(out_folder), out_folder)`` is then the trained model.

    :raises BadInputError: the template is missing or belongs to another layout, or θ has another length.
    """
    try:
        tensors: dict[str, Any] = load_file(template_folder / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"no adapter template in {template_folder} ({error})") from error
    for name, value in layout.unpack(theta).items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise BadInputError(f"the adapter template has no tensor {name!r} of shape {value.shape}")
        tensors[name] = np.ascontiguousarray(value)
    shutil.copytree(template_folder, out_folder, dirs_exist_ok=True)
    save_file(tensors, out_folder / ADAPTER_FILE, metadata={"format": "pt"})


def load_base_of(adapter_folder: Path) -> nn.Module:
    """The model that the adapter in ``adapter_folder`` was made for, with a head of the same kind.

    :raises BadInputError: no readable ``base.json``, or no such model.
    """
    try:
        base = json.loads((adapter_folder / BASE_FILE).read_bytes())
        source, labels, pooling = str(base["source"]), [str(label) for label in base["labels"]], base["pooling"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{adapter_folder} holds no adapter of fwdllm: {BASE_FILE} is unreadable") from error
    return load_base(source, labels, pooling)
