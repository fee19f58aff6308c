"""Where a device's rows come from: a local file of texts with labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fwdllm_client.data.records import RecordFile
from fwdllm_common.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Row:
    """One example: where it starts in its file (line, or row of a Parquet file), its text and its label."""

    line: int
    text: str
    label: str


@dataclass(frozen=True)
class DataSource:
    """A CSV, JSON Lines or Parquet file with a text and a label column.

    With ``user_column`` and ``user`` only the rows that have ``user`` in that column count: one file, many devices.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    path: Path
    text_column: str = "text"
    label_column: str = "label"
    user_column: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        _ = self._file

    def rows(self) -> Iterator[Row]:
        """The rows in the order of the file, read as they are asked for; labels without surrounding space.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        file = self._file
        for line, (text, label) in file.records():
            yield Row(line, file.text(line, self.text_column, text), self._label(line, label))

    def values(self, column: str) -> list[str]:
        """What each row has in another column.

        :raises BadInputError: the file is wrong or has no such column.
        """
        return self._file.other(column)

    def place(self, line: int) -> str:
        """The file and line for a message."""
        return self._file.place(line)

    @property
    def _file(self) -> RecordFile:
        return RecordFile(self.path, (self.text_column, self.label_column), self.user_column, self.user)

    def _label(self, line: int, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        label = str(value).strip() if isinstance(value, str | int) else ""
        if not label:
            what = "empty" if isinstance(value, str) or value is None else "neither a text nor a whole number"
            raise BadInputError(f"{self.place(line)}: {self.label_column!r} is {what}; give the row a label or drop it")
        return label
