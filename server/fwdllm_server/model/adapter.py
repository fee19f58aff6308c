"""The trained model in PEFT's own format, written without torch from a template and θ."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector, Layout

ADAPTER_FILE = "adapter_model.safetensors"
_CORE = ".lora_A.default.core.weight"


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
        if name.endswith(_CORE):
            # PEFT knows no core between A and B: A becomes R A.
            lora_a = name.replace(_CORE, ".lora_A.weight")
            tensors[lora_a] = value @ tensors[lora_a]
            del tensors[name]
        else:
            tensors[name] = np.ascontiguousarray(value)
    shutil.copytree(template_folder, out_folder, dirs_exist_ok=True)
    save_file(tensors, out_folder / ADAPTER_FILE, metadata={"format": "pt"})
