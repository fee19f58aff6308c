"""How an exported model is used, for its card."""

from __future__ import annotations

from fwdllm_common.prompt import PLACEHOLDER
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.config.job import ModelSection
from fwdllm_server.model.adapter import BASE_FOLDER, ExportFormat


def usage(kind: ExportFormat, model: ModelSection, own_code: bool) -> str:
    """Return the section on use, in Markdown; with ``own_code`` transformers has to trust the folder's code."""
    folder = "adapter" if kind == "peft" else "model"
    trust = ", trust_remote_code=True" if own_code and kind != "onnx" else ""
    parts = [
        f"## Use\n\nWith this folder as `{folder}`:",
        _python(_onnx_code(model) if kind == "onnx" else _transformers_code(folder, model, trust)),
        f"Texts are read up to {model.max_tokens} tokens.",
    ]
    if trust:
        where = f"{BASE_FOLDER}/*.py" if kind == "peft" else "*.py"
        parts.append(f"`trust_remote_code` lets transformers run `{where}`, which it has no model for.")
    if kind == "peft":
        parts += ["As PEFT's, and as one plain model without an adapter:", _python(_peft_code(model, trust))]
    return "\n\n".join(parts)


def _transformers_code(folder: str, model: ModelSection, trust: str) -> str:
    if model.task == CLASSIFICATION:
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="{folder}"{trust}, truncation=True)\n'
            f"print(classify({_text(model)}))"
        )
    kind = _auto_class(model)
    return (
        f"from transformers import {kind}, AutoTokenizer\n\n"
        f'model = {kind}.from_pretrained("{folder}"{trust}).eval()\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})'
    )


def _peft_code(model: ModelSection, trust: str) -> str:
    kind = _auto_class(model)
    return (
        f"from peft import PeftModel\nfrom transformers import {kind}, AutoTokenizer\n\n"
        f'base = {kind}.from_pretrained("adapter/{BASE_FOLDER}"{trust})\n'
        'model = PeftModel.from_pretrained(base, "adapter")\n'
        'model.merge_and_unload().save_pretrained("merged")\n'
        f'AutoTokenizer.from_pretrained("adapter"{trust}).save_pretrained("merged")'
    )


def _onnx_code(model: ModelSection) -> str:
    imports = (
        "import json\n\nimport numpy as np\nimport onnxruntime\nfrom tokenizers import Tokenizer\n\n"
        'session = onnxruntime.InferenceSession("model/model.onnx")\n'
        'tokenizer = Tokenizer.from_file("model/tokenizer.json")\n'
    )
    if model.task == CLASSIFICATION:
        batch = f"[{_text(model)}]"
        last = (
            'labels = json.load(open("model/config.json"))["id2label"]\n'
            '(logits,) = session.run(["logits"], feeds)\n'
            "print([labels[str(best)] for best in logits.argmax(axis=1)])"
        )
    else:
        batch = '[("a question", "its context")]'
        last = 'starts, ends = session.run(["start_logits", "end_logits"], feeds)'
        imports = imports.removeprefix("import json\n\n")
    return (
        f"{imports}texts = tokenizer.encode_batch({batch})\n"
        "feeds = {\n"
        '    "input_ids": np.array([each.ids for each in texts]),\n'
        '    "attention_mask": np.array([each.attention_mask for each in texts]),\n'
        f"}}\n{last}"
    )


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _text(model: ModelSection) -> str:
    return '"a text"' if model.prompt is None else f'{model.prompt!r}.replace("{PLACEHOLDER}", "a text")'


def _auto_class(model: ModelSection) -> str:
    return f"AutoModelFor{'SequenceClassification' if model.task == CLASSIFICATION else 'QuestionAnswering'}"
