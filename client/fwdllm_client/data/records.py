"""The records of a data file that count for this device, and what is said of a wrong value in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fwdllm_client.data.readers import Record, read_csv, read_jsonl, read_parquet
from fwdllm_common.errors import BadInputError

Reader = Callable[[Path, Sequence[str]], Iterator[Record]]
TABLES: Mapping[str, Reader] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
"""Readers by the file's suffix."""
_USERS_SHOWN = 5


@dataclass(frozen=True)
class RecordFile:
    """A file of one of ``readers``' types, of which the values of ``columns`` are wanted.

    With ``user_column`` and ``user`` only the records that have ``user`` in that column count: one file, many devices.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    path: Path
    columns: tuple[str, ...]
    user_column: str | None = None
    user: str | None = None
    readers: Mapping[str, Reader] = field(default_factory=lambda: TABLES)

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in self.readers:
            raise BadInputError(f"{self.path}: unknown file type; use {', '.join(self.readers)}")
        if (self.user_column is None) != (self.user is None):
            raise BadInputError(f"{self.path}: name both the user column and the user, or neither")

    def records(self) -> Iterator[Record]:
        """The records in the order of the file, read as they are asked for.

        :raises BadInputError: the file is wrong, or no record is left.
        """
        found = False
        others: dict[str, None] = {}
        for line, values, user in self._all():
            if user != self.user:
                if len(others) < _USERS_SHOWN:
                    others[str(user)] = None
                continue
            found = True
            yield line, values
        if not found and others:
            raise BadInputError(
                f"{self.path}: no row has {self.user!r} in column {self.user_column!r}, which holds "
                f"{', '.join(map(repr, others))}…; choose one of its values"
            )
        if not found:
            raise BadInputError(f"{self.path}: no rows; the file needs at least one with {' and '.join(self.columns)}")

    def other(self, column: str) -> list[str]:
        """The value of another column in each record, which must not be empty.

        :raises BadInputError: the file is wrong, or has no such column.
        """
        found = []
        for line, (value,) in replace(self, columns=(column,)).records():
            if value is None or not str(value).strip():
                raise BadInputError(f"{self.place(line)}: {column!r} is empty; fill it in or drop the row")
            found.append(str(value).strip())
        return found

    def place(self, line: int) -> str:
        """The file and line for a message."""
        return f"{self.path}, {'row' if self.path.suffix.lower() == '.parquet' else 'line'} {line}"

    def text(self, line: int, column: str, value: object) -> str:
        """The value of a column as a text.

        :raises BadInputError: it is none, or cannot be written as UTF-8.
        """
        if not isinstance(value, str):
            raise BadInputError(f"{self.place(line)}: {column!r} is not a text; fill it in or drop the row")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadInputError(
                f"{self.place(line)}: {column!r} has half a surrogate pair at character {error.start + 1}; "
                "write the file again as UTF-8"
            ) from error
        return value

    def _all(self) -> Iterator[tuple[int, tuple[object, ...], str | None]]:
        read = self.readers[self.path.suffix.lower()]
        if self.user_column is None:
            for line, values in read(self.path, self.columns):
                yield line, values, None
        else:
            for line, (*wanted, user) in read(self.path, (*self.columns, self.user_column)):
                yield line, tuple(wanted), str(user)
