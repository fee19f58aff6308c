"""The trained adapter in PEFT's format, written without torch from a template and θ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector, Layout

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
BASE_FOLDER = "base"
CARD = "README.md"
ExportFormat = Literal["peft", "transformers", "onnx"]
"""What a trained model can be exported as; all but the first are made of the first, by ``model.standalone``."""
_CORE = ".lora_A.default.core.weight"


def write_adapter(
    template_folder: Path, layout: Layout, theta: Float32Vector, out_folder: Path, card: str = ""
) -> None:
    """Write the adapter of θ, float32 ``[d]``: the template with the tensors of the layout replaced.

    ``PeftModel.from_pretrained(load_base_of(out_folder), out_folder)`` is then the trained model.

    :raises BadInputError: see :func:`trained_tensors`.
    """
    tensors = trained_tensors(template_folder, layout, theta)
    shutil.copytree(template_folder, out_folder, dirs_exist_ok=True)
    (out_folder / ADAPTER_FILE).write_bytes(tensors)
    if card:
        (out_folder / CARD).write_text(card, encoding="utf-8")


def trained_tensors(template_folder: Path, layout: Layout, theta: Float32Vector) -> bytes:
    """Return the content of the adapter's tensor file for θ, float32 ``[d]``.

    :raises BadInputError: the template is missing or belongs to another layout, or θ has another length.
    """
    try:
        tensors: dict[str, Any] = load_file(template_folder / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"no adapter template in {template_folder} ({error})") from error
    for name, value in layout.unpack(theta).items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise BadInputError(f"the adapter template has no tensor {name!r} of shape {value.shape}")
        if name.endswith(_CORE):
            # PEFT knows no core between A and B: A becomes R A.
            lora_a = name.replace(_CORE, ".lora_A.weight")
            tensors[lora_a] = value @ tensors[lora_a]
            del tensors[name]
        else:
            tensors[name] = np.ascontiguousarray(value)
    return save(tensors, metadata={"format": "pt"})


def export_format(word: str) -> ExportFormat:
    """Return the format of this name; without a name it is PEFT's.

    :raises BadInputError: there is no such format.
    """
    known: tuple[ExportFormat, ...] = get_args(ExportFormat)
    for kind in known:
        if kind == (word or "peft"):
            return kind
    raise BadInputError(f"no format {word!r}; there are {', '.join(known)}")


def name_base(folder: Path, out: Path) -> None:
    """Set the base model's path in the adapter in ``folder``, which will be moved to ``out``.

    PEFT resolves it from the working folder: the one that ``out`` is relative to, or else the parent of ``out``.
    """
    file = folder / ADAPTER_CONFIG
    if not (folder / BASE_FOLDER).is_dir():
        return
    near = out.name if out.is_absolute() or ".." in out.parts else out.as_posix()
    config = {**json.loads(file.read_bytes()), "base_model_name_or_path": f"{near}/{BASE_FOLDER}"}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
