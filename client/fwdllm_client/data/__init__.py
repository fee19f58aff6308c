"""Local data: rows from a file, tokenised once. They never leave the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwdllm_client.data.source import Contents, Source

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset

__all__ = ["Contents", "Dataset", "Source"]


def __getattr__(name: str) -> object:
    if name != "Dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported on demand: numpy and the tokenizer take 15 MB, which an idle device saves.
    from fwdllm_client.data.dataset import Dataset

    return Dataset
