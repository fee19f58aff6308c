"""Texts, or pairs of texts, with labels in a local file: what is alike for every task that has a label for a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from fwdllm_client.data.pairs import Text, TextColumns, no_pair, pair_of
from fwdllm_client.data.readers import ABSENT, Column, missing_column
from fwdllm_client.data.record_source import RecordSource
from fwdllm_client.data.records import text_of

L = TypeVar("L")
OPTION = "--{0}-column, in a job file [held_out] {0}_column"


@dataclass(frozen=True, slots=True)
class Row(Generic[L]):
    """One example: its line in the file (its row, for files without lines), its text or two, and its label."""

    line: int
    text: Text
    label: L


@dataclass(frozen=True)
class LabelledSource(RecordSource[Row[L]], Generic[L]):
    """A table with columns of texts and of labels, in a file of one of the types of ``TABLES``.

    With ``user_column`` and ``user`` only the rows with the value ``user`` in that column are used, so that one file
    can serve many devices. With ``skip_incomplete`` rows without a text or a label are left out; otherwise they are
    errors. A task ``reads_pairs``, or ``reads_texts``, or both, each row as what its columns make it; without a
    ``pair_column`` those of pairs are found by their usual names. With ``has_labels`` unset no label is read: each is
    :attr:`no_label`.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    left_out_event: ClassVar[str] = "rows without a text or a label are left out"
    reads_pairs: ClassVar[bool] = False
    reads_texts: ClassVar[bool] = True
    path: Path
    text_column: str = "text"
    label_column: str = "label"
    user_column: str | None = None
    user: str | None = None
    skip_incomplete: bool = False
    pair_column: str | None = None
    has_labels: bool = True

    @abstractmethod
    def label(self, place: str, values: Sequence[object]) -> L:
        """Return the label that the values of :attr:`label_columns` make.

        :raises BadInputError: they make none; the message begins with ``place``.
        """

    @property
    @abstractmethod
    def no_label(self) -> L:
        """The label of a row whose label is not read."""

    @property
    def label_columns(self) -> tuple[Column, ...]:
        """The columns of the label."""
        return (Column(self.label_column, OPTION.format("label")),)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the texts, then those of the label."""
        return (*self._text_columns, *(self.label_columns if self.has_labels else ()))

    @property
    def nothing_left(self) -> str:
        """Why no row is left."""
        return f"none of its rows has both {self.text_column!r} and {self.label_column!r}; fill them in"

    def row(self, place: str, line: int, values: Sequence[object]) -> Row[L] | None:
        """Return the row of a text, or two, and a label.

        :raises BadInputError: one of them is missing and ``skip_incomplete`` is not set, or is none.
        """
        width = len(self._text_columns)
        texts, labels = self._texts(place, values[:width]), values[width:]
        is_unlabelled = self.has_labels and all(map(blank, labels))
        if self.skip_incomplete and (is_unlabelled or any(map(blank, texts))):
            return None
        read: Text = text_of(place, self.text_column, texts[0]) if len(texts) == 1 else pair_of(place, *texts)
        return Row(line, read, self.label(place, labels) if self.has_labels else self.no_label)

    def texts(self) -> list[str]:
        """Return the text of each row, or both.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [row.text if isinstance(row.text, str) else " ".join(row.text) for row in self.rows()]

    @property
    def _text_columns(self) -> tuple[Column, ...]:
        if self.reads_pairs:
            return TextColumns(self.text_column, self.pair_column).columns
        return (Column(self.text_column, OPTION.format("text")),)

    def _texts(self, place: str, values: Sequence[object]) -> tuple[object, ...]:
        if not self.reads_pairs:
            return tuple(values)
        columns = TextColumns(self.text_column, self.pair_column)
        if (pair := columns.pair(place, values)) != (ABSENT, ABSENT):
            return pair
        if not self.reads_texts:
            raise no_pair(place)
        if (text := columns.single(values)) is ABSENT:
            raise missing_column(place, Column(self.text_column, OPTION.format("text")), [])
        return (text,)


def blank(value: object) -> bool:
    """Return whether there is nothing in a field."""
    return value is None or (isinstance(value, str) and not value.strip())
