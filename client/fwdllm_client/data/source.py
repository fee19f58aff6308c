"""Where a device's rows come from: a local file of texts with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fwdllm_client.data.readers import Record, read_csv, read_jsonl, read_parquet
from fwdllm_common.errors import BadInputError

_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Record]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
_USERS_SHOWN = 5


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
        if self.path.suffix.lower() not in _READERS:
            raise BadInputError(f"{self.path}: unknown file type; use {', '.join(_READERS)}")
        if (self.user_column is None) != (self.user is None):
            raise BadInputError(f"{self.path}: name both the user column and the user, or neither")

    def rows(self) -> Iterator[Row]:
        """The rows in the order of the file, read as they are asked for; labels without surrounding space.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        found = False
        others: dict[str, None] = {}
        for line, text, label, user in self._records():
            if user != self.user:
                if len(others) < _USERS_SHOWN:
                    others[str(user)] = None
                continue
            found = True
            yield Row(line, self._text(line, text), self._label(line, label))
        if not found and others:
            raise BadInputError(
                f"{self.path}: no row has {self.user!r} in column {self.user_column!r}, which holds "
                f"{', '.join(map(repr, others))}…; choose one of its values"
            )
        if not found:
            raise BadInputError(f"{self.path}: no rows; the file needs at least one text with a label")

    def place(self, line: int) -> str:
        """The file and line for a message."""
        return f"{self.path}, {'row' if self.path.suffix.lower() == '.parquet' else 'line'} {line}"

    def _records(self) -> Iterator[tuple[int, object, object, str | None]]:
        read = _READERS[self.path.suffix.lower()]
        if self.user_column is None:
            for line, (text, label) in read(self.path, (self.text_column, self.label_column)):
                yield line, text, label, None
        else:
            for line, (text, label, user) in read(self.path, (self.text_column, self.label_column, self.user_column)):
                yield line, text, label, str(user)

    def _text(self, line: int, value: object) -> str:
        if not isinstance(value, str):
            raise BadInputError(f"{self.place(line)}: {self.text_column!r} is not a text; fill it in or drop the row")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadInputError(
                f"{self.place(line)}: {self.text_column!r} has half a surrogate pair at character {error.start + 1}; "
                "write the file again as UTF-8"
            ) from error
        return value

    def _label(self, line: int, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        label = str(value).strip() if isinstance(value, str | int) else ""
        if not label:
            what = "empty" if isinstance(value, str) or value is None else "neither a text nor a whole number"
            raise BadInputError(f"{self.place(line)}: {self.label_column!r} is {what}; give the row a label or drop it")
        return label


def labels_in(source: DataSource) -> tuple[tuple[str, ...], int]:
    """The labels that occur, sorted, and the number of rows: one pass, no model needed.

    :raises BadInputError: the file or a row is wrong, or no row is left.
    """
    labels: set[str] = set()
    count = 0
    for row in source.rows():
        labels.add(row.label)
        count += 1
    return tuple(sorted(labels)), count
