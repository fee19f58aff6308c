"""A manifest as the coordinator would write it."""

from __future__ import annotations

import hashlib

from common.runs import LAYOUT

from fwdllm_common.manifest import BundleFile, Manifest, Stage


def file(name: str) -> BundleFile:
    return BundleFile(name, hashlib.sha256(name.encode()).hexdigest(), len(name))


MANIFEST = Manifest(
    labels=("négatif", "positif"),
    max_tokens=64,
    pad_token_id=0,
    tokenizer=file("tokenizer.json"),
    layout=LAYOUT,
    stages=(
        Stage(None, file("prefix.onnx"), file("weights.bin"), ("input_ids", "attention_mask"), True, 20, 400),
        Stage("peft", file("peft.onnx"), file("weights.bin"), ("attention_mask", "activation", "theta"), False, 20, 40),
        Stage("head", file("head.onnx"), None, ("activation", "theta", "labels"), False, 2, 42),
    ),
)
