"""Local data: rows from a file, tokenised once; nothing of it ever leaves the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwdllm_client.data.contents import Contents, Source, contents_of
from fwdllm_client.data.questions import QuestionSource
from fwdllm_client.data.source import DataSource, Row

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset

__all__ = ["Contents", "DataSource", "Dataset", "QuestionSource", "Row", "Source", "contents_of"]


def __getattr__(name: str) -> object:
    if name != "Dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Needs numpy and a tokenizer: 15 MB that an idle device does without.
    from fwdllm_client.data.dataset import Dataset

    return Dataset
