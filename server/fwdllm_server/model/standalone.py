"""An exported adapter made into a model that needs neither fwdllm nor PEFT: merged weights, or one ONNX graph."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from peft import PeftModel
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim
from transformers import AutoTokenizer

from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.model.adapter import CARD, ExportFormat
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.export import OPSET, TOKENIZER_FILE, fix_rotations, quiet_exporter, single_operators
from fwdllm_server.model.load import quiet_transformers
from fwdllm_server.model.logits import logits_of
from fwdllm_server.model.segments import segment_separator
from fwdllm_server.model.split import save_stage
from fwdllm_server.tasks import task_named

GRAPH_FILE = "model.onnx"

# Sizes of the example that is traced; different, so that they do not look like one dimension.
_BATCH, _TOKENS = 3, 7


def convert(adapter_folder: Path, kind: ExportFormat, out_folder: Path) -> None:
    """Make the adapter in ``adapter_folder`` a model of another format in ``out_folder``, with tokenizer and card.

    :raises BadInputError: the model cannot be one graph for texts of ``max_tokens`` tokens.
    """
    _WRITERS[kind](merged_model(adapter_folder), adapter_folder, out_folder)
    if (adapter_folder / CARD).exists():
        shutil.copy(adapter_folder / CARD, out_folder)


def merged_model(adapter_folder: Path) -> Any:
    """Return the model of the adapter in the folder as transformers has it, weights merged, in eval mode, float32."""
    with warnings.catch_warnings(), quiet_transformers():
        # PEFT 0.21 asks transformers by a name that 5.23 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model: Any = PeftModel.from_pretrained(load_base_of(adapter_folder), str(adapter_folder))
        return model.merge_and_unload().eval().requires_grad_(False)


def _write_transformers(model: Any, adapter_folder: Path, out_folder: Path) -> None:
    """Write a folder that ``AutoModelFor….from_pretrained``, ``pipeline`` and ``save_pretrained`` take."""
    with quiet_transformers():
        model.save_pretrained(out_folder)
        _tokenizer(adapter_folder).save_pretrained(out_folder)


def _write_onnx(model: Any, adapter_folder: Path, out_folder: Path) -> None:
    """Write the graph ``input_ids``, ``attention_mask`` → the task's outputs: ``logits``, or several.

    Both inputs are int64 ``[N, T]``, the outputs float32 ``[N, labels]`` or ``[N, T]``. The labels are in
    ``config.json`` as ``id2label``; ``tokenizer.json`` cuts and pads by itself.
    """
    tokenizer = _tokenizer(adapter_folder)
    max_tokens = int(tokenizer.model_max_length)
    reading: Mapping[str, Any] = getattr(model.config, "fwdllm", {})  # an older version's template says nothing
    task = task_named(reading.get("task", CLASSIFICATION))
    fix_rotations(model, max_tokens)
    single_operators(model)
    out_folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        tokenizer.save_pretrained(out_folder)
        model.config.save_pretrained(out_folder)
    backend = Tokenizer.from_file(str(adapter_folder / TOKENIZER_FILE))
    backend.no_truncation()
    backend.no_padding()
    separator = segment_separator(model.config, backend.to_str().encode()) if task.is_pair else None
    backend.enable_truncation(max_tokens)
    backend.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    backend.save(str(out_folder / TOKENIZER_FILE))
    save_stage(_traced(_Logits(model, separator, task.outputs, task.tags_words), max_tokens), out_folder / GRAPH_FILE)


def _tokenizer(adapter_folder: Path) -> Any:
    with quiet_transformers():
        return AutoTokenizer.from_pretrained(adapter_folder, trust_remote_code=True)


class _Logits(nn.Module):
    """The logits alone, computed as in the graphs of devices."""

    def __init__(self, model: Any, separator: int | None, outputs: Sequence[str], every_token: bool) -> None:
        super().__init__()
        self._model = model
        self._separator = separator
        self.outputs = list(outputs)
        self._every_token = every_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return the logits ``[N, …]``, or the parts of their last axis if there are several outputs."""
        logits = logits_of(self._model, input_ids, attention_mask, self._separator, every_token=self._every_token)
        return tuple(logits.unbind(dim=-1)) if len(self.outputs) > 1 else (logits,)


def _traced(logits: _Logits, max_tokens: int) -> ir.Model:
    ids = torch.ones(_BATCH, _TOKENS, dtype=torch.int64)
    text = {0: Dim("rows", min=1), 1: Dim("tokens", min=2, max=max_tokens)}
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            logits.eval(),
            (ids, ids.clone()),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=logits.outputs,
            dynamic_shapes=(text, text),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    ClearMetadataAndDocStringPass()(program.model)
    return program.model


_WRITERS: Mapping[ExportFormat, Callable[[Any, Path, Path], None]] = {
    "transformers": _write_transformers,
    "onnx": _write_onnx,
}
