"""A source of rows in one file of records: what is alike for every task whose rows are in columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

import structlog

from fwdllm_client.data.readers import Column, Reader
from fwdllm_client.data.records import TABLES, LeftOut, RecordFile, filled
from fwdllm_client.data.source import Contents, Source
from fwdllm_common.errors import BadInputError

R = TypeVar("R")
_log = structlog.get_logger()


class RecordSource(Source, Generic[R]):
    """A file whose records become the rows of a task, which says its columns and what a row is.

    ``left_out_event`` is logged where rows are left out, ``nothing_left`` says why none is left. With ``user_column``
    and ``user`` only the rows with the value ``user`` in that column are used.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    readers: ClassVar[Mapping[str, Reader]] = TABLES
    left_out_event: ClassVar[str]
    user_column: str | None
    user: str | None

    def __post_init__(self) -> None:
        """Check the type of the file."""
        _ = self._file()

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns that a row is made of."""

    @property
    @abstractmethod
    def nothing_left(self) -> str:
        """Why no row is left, of a file that has records."""

    @abstractmethod
    def row(self, place: str, line: int, values: Sequence[object]) -> R | None:
        """Return the row of the values of :attr:`columns`, None to leave it out.

        :raises BadInputError: the row is wrong; the message begins with ``place``.
        """

    def rows(self, left_out: LeftOut | None = None) -> Iterator[R]:
        """Yield the rows in the order of the file, reading lazily; those that are left out are counted in ``left_out``.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return (row for row, _ in self._read(None, left_out or LeftOut()))

    def values(self, column: str) -> list[str]:
        """Return each row's value in another column.

        :raises BadInputError: the file is wrong or has no such column.
        """
        return [value for _, value in self._read(column, LeftOut())]

    def contents(self) -> Contents:
        """Count the rows; log how many are left out.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        left_out = LeftOut()
        rows = sum(1 for _ in self.rows(left_out))
        self._log_left_out(left_out, rows)
        return Contents(self.task, rows, left_out=left_out.rows)

    def place(self, line: int) -> str:
        """Return the file and line for a message."""
        return self._file().place(line)

    def _place(self, place: str, values: Sequence[object]) -> str:  # noqa: ARG002 - for tasks whose rows have names
        return place

    def _log_left_out(self, left_out: LeftOut, kept: int) -> None:
        if left_out.rows:
            _log.warning(self.left_out_event, file=str(self.path), rows=left_out.rows, kept=kept)

    def _file(self, other: str | None = None) -> RecordFile:
        columns = self.columns if other is None else (*self.columns, Column(other))
        return RecordFile(self.path, columns, self.user_column, self.user, self.readers)

    def _read(self, other: str | None, left_out: LeftOut) -> Iterator[tuple[R, str]]:
        file, width = self._file(other), len(self.columns)
        found = False
        for line, values in file.records():
            place = self._place(file.place(line), values)
            row = self.row(place, line, values[:width])
            if row is None:
                left_out.rows += 1
                continue
            found = True
            yield row, filled(place, other, values[width]) if other is not None else ""
        if not found:
            raise BadInputError(f"{self.path}: {self.nothing_left}")
