"""Models: loading, PEFT, the layout of θ, the bundle that devices run and the adapter that users get."""

from fwdllm_server.model.adapter import BaseDescription, load_base_of, save_adapter_template, write_adapter
from fwdllm_server.model.export import MANIFEST_FILE, export_bundle
from fwdllm_server.model.load import Pooling, TokenizerFile, load_base, load_tokenizer_file
from fwdllm_server.model.peft_methods import apply_peft
from fwdllm_server.model.peft_spec import PeftSpec
from fwdllm_server.model.pooling import MeanPooledClassifier
from fwdllm_server.model.trainable import HEAD_BLOCK, PEFT_BLOCK, initial_theta, load_theta, trainable_layout

__all__ = [
    "HEAD_BLOCK",
    "MANIFEST_FILE",
    "PEFT_BLOCK",
    "BaseDescription",
    "MeanPooledClassifier",
    "PeftSpec",
    "Pooling",
    "TokenizerFile",
    "apply_peft",
    "export_bundle",
    "initial_theta",
    "load_base",
    "load_base_of",
    "load_theta",
    "load_tokenizer_file",
    "save_adapter_template",
    "trainable_layout",
    "write_adapter",
]
