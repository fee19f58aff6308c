"""Texts with labels in a local file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import structlog

from fwdllm_client.data.readers import Column
from fwdllm_client.data.record_source import RecordSource
from fwdllm_client.data.records import LeftOut, text_of
from fwdllm_client.data.source import Contents
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CLASSIFICATION

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

_SEPARATORS = ("[SEP]", "</s>")
_log = structlog.get_logger()
_OPTION = "--{0}-column, in a job file [held_out] {0}_column"


@dataclass(frozen=True, slots=True)
class Row:
    """One example: its line in the file (its row, for files without lines), its text and its label."""

    line: int
    text: str
    label: str


@dataclass(frozen=True)
class DataSource(RecordSource[Row]):
    """A table with a text and a label column, in a file of one of the types of ``TABLES``.

    With ``user_column`` and ``user`` only the rows with the value ``user`` in that column are used, so that one file
    can serve many devices. With ``skip_incomplete`` rows without a text or a label are left out; otherwise they are
    errors.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    left_out_event: ClassVar[str] = "rows without a text or a label are left out"
    path: Path
    text_column: str = "text"
    label_column: str = "label"
    user_column: str | None = None
    user: str | None = None
    skip_incomplete: bool = False

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return CLASSIFICATION

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the text and of the label."""
        return (
            Column(self.text_column, _OPTION.format("text")),
            Column(self.label_column, _OPTION.format("label")),
        )

    @property
    def nothing_left(self) -> str:
        """Why no row is left."""
        return f"none of its rows has both {self.text_column!r} and {self.label_column!r}; fill them in"

    def row(self, place: str, line: int, values: Sequence[object]) -> Row | None:
        """Return the row of a text and a label, without the space around the label.

        :raises BadInputError: one of them is missing and ``skip_incomplete`` is not set, or neither text nor label.
        """
        text, label = values
        if self.skip_incomplete and (_blank(text) or _blank(label)):
            return None
        return Row(line, text_of(place, self.text_column, text), self._label(place, label))

    def texts(self) -> list[str]:
        """Return the text of each row.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [row.text for row in self.rows()]

    def contents(self) -> Contents:
        """Count rows and labels; log rows that are left out, and texts that contain a separator of pairs.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        left_out = LeftOut()
        labels: set[str] = set()
        rows = pairs = 0
        for row in self.rows(left_out):
            labels.add(row.label)
            rows += 1
            pairs += any(separator in row.text for separator in _SEPARATORS)
        self._log_left_out(left_out, rows)
        if pairs:
            _log.warning(
                "texts hold a separator: the model is not told that they are pairs, and reads both parts as one text",
                file=str(self.path),
                rows=pairs,
            )
        return Contents(CLASSIFICATION, rows, tuple(sorted(labels)), left_out.rows)

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; their labels are class indices, int32 ``[rows]``.

        :raises BadInputError: the file or a row is wrong, or a label is not one of the model's.
        """
        from fwdllm_client.tasks.classification.tokens import labelled

        return labelled(self, tokenizer_file, manifest)

    def _label(self, place: str, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        label = str(value).strip() if isinstance(value, str | int) else ""
        if not label:
            what = "empty" if isinstance(value, str) or value is None else "neither a text nor a whole number"
            raise BadInputError(
                f"{place}: {self.label_column!r} is {what}; give the row a label, drop it, or leave such rows out with "
                "--skip-incomplete, in a job file [held_out] skip_incomplete"
            )
        return label


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
