"""Pairs of texts with labels in a local file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fwdllm_client.tasks.classification.rows import DataSource
from fwdllm_common.task import PAIR_CLASSIFICATION


@dataclass(frozen=True)
class PairSource(DataSource):
    """A table with two columns of texts and one of labels."""

    left_out_event: ClassVar[str] = "rows without both texts or a label are left out"
    reads_pairs: ClassVar[bool] = True
    reads_texts: ClassVar[bool] = False

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return PAIR_CLASSIFICATION
