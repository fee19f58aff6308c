"""The records of a data file that this device uses, and checks of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fwdllm_client.data.arrow import FOLDER, read_arrow, read_folder, read_parquet
from fwdllm_client.data.readers import Column, Reader, Record, read_csv, read_json, read_jsonl
from fwdllm_common.errors import BadInputError

TABLES: Mapping[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    FOLDER: read_folder,
}
"""Readers by the file's suffix."""
_COMPRESSED = ".gz"
_BY_ROW = (".json", ".parquet", ".arrow", FOLDER)
_USERS_SHOWN = 5
_CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), 'python -c "import pandas; pandas.read_excel({0!r}).to_csv({1!r})"'),
    ".pkl": 'python -c "import pandas; pandas.read_pickle({0!r}).to_csv({1!r})"',
    ".zip": "unzip {0!r}",
    ".bz2": "bunzip2 {0!r}",
    ".xz": "unxz {0!r}",
    ".zst": "unzstd {0!r}",
}


@dataclass
class LeftOut:
    """A counter of the ``rows`` of a file that were left out so far."""

    rows: int = 0


@dataclass(frozen=True)
class RecordFile:
    """A file of one of the types of ``readers``, and the ``columns`` to read.

    With ``user_column`` and ``user`` only the records with the value ``user`` in that column are used, so that one file
    can serve many devices.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    path: Path
    columns: tuple[Column, ...]
    user_column: str | None = None
    user: str | None = None
    readers: Mapping[str, Reader] = field(default_factory=lambda: TABLES)

    def __post_init__(self) -> None:
        if self._suffix not in self.readers:
            types = ", ".join(suffix for suffix in self.readers if suffix != FOLDER)
            raise BadInputError(
                f"{self.path}: unknown file type; {self._conversion()}use {types}, each also as .gz, or a folder that "
                "datasets has saved with save_to_disk"
            )
        if (self.user_column is None) != (self.user is None):
            raise BadInputError(f"{self.path}: name both the user column and the user, or neither")

    def records(self) -> Iterator[Record]:
        """Yield the records in the order of the file, reading lazily.

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
            needed = " and ".join(column.name for column in self.columns if column.required)
            raise BadInputError(f"{self.path}: no rows; the file needs at least one with {needed}")

    def place(self, line: int) -> str:
        """Return the file and line for a message."""
        return f"{self.path}, {'row' if self._suffix in _BY_ROW else 'line'} {line}"

    @cached_property
    def _suffix(self) -> str:
        if self.path.is_dir():
            return FOLDER
        return Path(self.path.name.lower().removesuffix(_COMPRESSED)).suffix

    def _conversion(self) -> str:
        command = _CONVERSIONS.get(self._suffix)
        if command is None:
            return ""
        return f"convert it with {command.format(str(self.path), str(self.path.with_suffix('.csv')))}, or "

    def _all(self) -> Iterator[tuple[int, tuple[object, ...], str | None]]:
        read = self.readers[self._suffix]
        if self.user_column is None:
            for line, values in read(self.path, self.columns):
                yield line, values, None
        else:
            for line, (*wanted, user) in read(self.path, (*self.columns, Column(self.user_column, "--user-column"))):
                yield line, tuple(wanted), str(user)


def text_of(place: str, column: str, value: object) -> str:
    """Check that the value of a column is a text, and return it.

    :raises BadInputError: it is not a text, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise BadInputError(f"{place}: {column!r} is not a text; fill it in or drop the row")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(
            f"{place}: {column!r} has half a surrogate pair at character {error.start + 1}; "
            "write the file again as UTF-8"
        ) from error
    return value


def filled(place: str, column: str, value: object) -> str:
    """Return the value of a column that must not be empty, without surrounding space.

    :raises BadInputError: the value is empty.
    """
    if value is None or not str(value).strip():
        raise BadInputError(f"{place}: {column!r} is empty; fill it in or drop the row")
    return str(value).strip()
