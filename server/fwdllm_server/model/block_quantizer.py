"""ONNX Runtime's quantiser of blocks of weights, imported without the root logger that its import configures."""

from __future__ import annotations

import logging

_root = logging.getLogger()
_handlers, _level = list(_root.handlers), _root.level

from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: E402
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

_root.handlers[:] = _handlers
_root.setLevel(_level)

__all__ = ["DefaultWeightOnlyQuantConfig", "DefaultWeightOnlyQuantizer"]
