"""The adapter before training, in PEFT's own format, and the model that an adapter belongs to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from peft import PeftModel
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sync, write_atomically
from fwdllm_server.model.load import Pooling, load_base

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
    for file in folder.iterdir():
        sync(file)
    text = json.dumps({**base, "labels": list(base["labels"])}, indent=2, ensure_ascii=False)
    write_atomically(folder / BASE_FILE, text.encode())


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
