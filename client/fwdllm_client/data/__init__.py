"""Local data: rows from a file, tokenised once; nothing of it ever leaves the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwdllm_client.data.source import DataSource, Row, labels_in

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset

__all__ = ["DataSource", "Dataset", "Row", "labels_in"]


def __getattr__(name: str) -> object:
    if name != "Dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Needs numpy and a tokenizer: 15 MB that an idle device does without.
    from fwdllm_client.data.dataset import Dataset

    return Dataset
