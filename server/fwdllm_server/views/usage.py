"""How an exported model is used, for its card."""

from __future__ import annotations

from fwdllm_common.prompt import PLACEHOLDER
from fwdllm_server.config.job_sections import ModelSection
from fwdllm_server.model.adapter import BASE_FOLDER, ExportFormat
from fwdllm_server.tasks import task_named


def usage(kind: ExportFormat, model: ModelSection, own_code: bool) -> str:
    """Return the section on use, in Markdown; with ``own_code`` transformers has to trust the folder's code."""
    folder = "adapter" if kind == "peft" else "model"
    trust = ", trust_remote_code=True" if own_code and kind != "onnx" else ""
    with_transformers = task_named(model.task).transformers_code(folder, trust, _text(model))
    parts = [
        f"## Use\n\nWith this folder as `{folder}`:",
        _python(_onnx_code(model) if kind == "onnx" else with_transformers),
        f"Texts are read up to {model.max_tokens} tokens.",
    ]
    if trust:
        where = f"{BASE_FOLDER}/*.py" if kind == "peft" else "*.py"
        parts.append(f"`trust_remote_code` lets transformers run `{where}`, which it has no model for.")
    if kind == "peft":
        parts += ["As PEFT's, and as one plain model without an adapter:", _python(_peft_code(model, trust))]
    return "\n\n".join(parts)


def _peft_code(model: ModelSection, trust: str) -> str:
    kind = task_named(model.task).auto_class
    return (
        f"from peft import PeftModel\nfrom transformers import {kind}, AutoTokenizer\n\n"
        f'base = {kind}.from_pretrained("adapter/{BASE_FOLDER}"{trust})\n'
        'model = PeftModel.from_pretrained(base, "adapter")\n'
        'model.merge_and_unload().save_pretrained("merged")\n'
        f'AutoTokenizer.from_pretrained("adapter"{trust}).save_pretrained("merged")'
    )


def _onnx_code(model: ModelSection) -> str:
    batch, last = task_named(model.task).onnx_code(_text(model))
    first = "import json\n\n" if "json." in last else ""
    return (
        f"{first}import numpy as np\nimport onnxruntime\nfrom tokenizers import Tokenizer\n\n"
        'session = onnxruntime.InferenceSession("model/model.onnx")\n'
        'tokenizer = Tokenizer.from_file("model/tokenizer.json")\n'
        f"texts = tokenizer.encode_batch({batch})\n"
        "feeds = {\n"
        '    "input_ids": np.array([each.ids for each in texts]),\n'
        '    "attention_mask": np.array([each.attention_mask for each in texts]),\n'
        f"}}\n{last}"
    )


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _text(model: ModelSection) -> str:
    return '"a text"' if model.prompt is None else f'{model.prompt!r}.replace("{PLACEHOLDER}", "a text")'
