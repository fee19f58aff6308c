"""Federated fine-tuning of language models without backpropagation: what scripts and notebooks import.

It also holds the generated wire contract. What trains is imported when it is first named, so that devices, which import
the contract alone, stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwdllm_common.errors import FwdllmError as FwdllmError
    from fwdllm_server.api.model import Model as Model
    from fwdllm_server.api.run import Run as Run
    from fwdllm_server.api.simulate import Round as Round
    from fwdllm_server.api.simulate import simulate as simulate

__all__ = ["FwdllmError", "Model", "Round", "Run", "simulate"]

_MODULES = {
    "FwdllmError": "fwdllm_common.errors",
    "Model": "fwdllm_server.api.model",
    "Round": "fwdllm_server.api.simulate",
    "Run": "fwdllm_server.api.run",
    "simulate": "fwdllm_server.api.simulate",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith("fwdllm"):
            raise
        raise ImportError(f"fwdllm.{name} needs {error.name}: pip install 'fwdllm[server]'", name=error.name) from error


def __dir__() -> list[str]:
    return __all__
