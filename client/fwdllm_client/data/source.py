"""What every source of rows has in common, and the summary of a file that a device tells of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest


@dataclass(frozen=True)
class Contents:
    """The task of the rows, the number of ``rows``, and the labels that occur, sorted, if the task has labels.

    ``left_out`` is the number of further rows that are not used: questions without an answer, or skipped incomplete
    rows. ``rows_by_label`` counts the rows of each label, for tasks with one for each row.
    """

    task: str
    rows: int
    labels: tuple[str, ...] = ()
    left_out: int = 0
    rows_by_label: Mapping[str, int] = field(default_factory=dict, compare=False)


class Source(ABC):
    """Rows of one task in the file ``path``, read anew at every use."""

    path: Path

    @property
    @abstractmethod
    def task(self) -> str:
        """The name of the task that the rows are for."""

    @abstractmethod
    def contents(self) -> Contents:
        """Read every row without a model and summarise the file; log which rows are left out.

        :raises BadInputError: the file or a row is wrong, or there is no row.
        """

    @abstractmethod
    def values(self, column: str) -> Sequence[str]:
        """Return each row's value in another column.

        :raises BadInputError: the file is wrong or has no such column.
        """

    @abstractmethod
    def texts(self) -> Sequence[str]:
        """Return each row's text without its label, for what reads unlabelled text.

        :raises BadInputError: the file or a row is wrong, or there is no row.
        """

    @abstractmethod
    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows for a model of the task; callers use :meth:`Dataset.load`, which checks that it is one."""
