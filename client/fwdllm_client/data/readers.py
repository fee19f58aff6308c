"""Readers of CSV and JSON files, which yield records one at a time with the values of the requested columns."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from fwdllm_common.errors import BadInputError

Record = tuple[int, tuple[object, ...]]
"""The record's line, 1 for the first (or its row, for files without lines), and its values."""

ABSENT: Final = object()
"""The value of a column that the file does not have."""

READ_ERRORS = (OSError, EOFError, zlib.error)
"""Exceptions of reading a file that is unreadable, or compressed and damaged."""

_MAX_FIELD_CHARACTERS = 1 << 24
_DELIMITERS = (",", ";", "\t")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"


class Column(NamedTuple):
    """A column; ``option`` is the setting by which the user names another, empty if the ``name`` is fixed."""

    name: str
    option: str = ""
    required: bool = True


Reader = Callable[[Path, Sequence[Column]], Iterator[Record]]


def read_csv(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a file with a header line and fields separated by commas, semicolons or tabs.

    :raises BadInputError: a column is missing, a quote is not closed, a record has too few or too many fields, or the
        text is not UTF-8.
    """
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    with open_data(path) as file:
        lines = (line for _, line in text_lines(path, file))
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            return
    delimiter = _delimiter(first, columns)
    with open_data(path) as file:
        reader = csv.reader((line for _, line in text_lines(path, file)), delimiter=delimiter, strict=True)
        header: list[str] = []
        positions: list[int | None] = []
        while True:
            start = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise BadInputError(
                    f"{path}, line {start}: not a CSV record ({error}); close its quotes and double quotes inside them"
                ) from error
            if fields is None:
                return
            if not fields:
                continue
            if not header:
                header = fields
                positions = [column_position(str(path), header, column) for column in columns]
            elif len(fields) != len(header):
                raise BadInputError(
                    f"{path}, line {start}: {len(fields)} fields, but the header has {len(header)}; "
                    f"quote the fields that contain {delimiter!r}"
                )
            else:
                yield start, tuple(ABSENT if position is None else fields[position] for position in positions)


def read_jsonl(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a JSON Lines file, one object per line.

    :raises BadInputError: a line is incomplete or not an object, a column is missing in it, or the text is not UTF-8.
    """
    with open_data(path) as file:
        for number, line in text_lines(path, file):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInputError(
                    f"{path}, line {number}: not a whole JSON object ({error}); "
                    "write one object a line and check that the file was not cut off"
                ) from error
            yield number, _values(f"{path}, line {number}", value, columns)


def read_json(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a JSON file: an array of objects, which is loaded whole, or one object per line.

    :raises BadInputError: the file is neither, or a column is missing in an object.
    """
    return json_rows(path, whole_json(path), columns)


def json_rows(path: Path, value: object, columns: Sequence[Column]) -> Iterator[Record]:
    """Yield the records of ``value``, the result of :func:`whole_json`, if it is an array; else read the file's lines.

    :raises BadInputError: as for :func:`read_json`.
    """
    if not isinstance(value, list):
        yield from read_jsonl(path, columns)
        return
    for number, item in enumerate(value, start=1):
        yield number, _values(f"{path}, row {number}", item, columns)


def whole_json(path: Path) -> Any:
    """Parse a JSON file; return None if it is not a single JSON value.

    :raises BadInputError: the file cannot be read.
    """
    with open_data(path) as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError):
            return None
        except READ_ERRORS as error:
            raise _not_gzip(path, error) from error


def open_data(path: Path) -> BinaryIO:
    """Open the file for reading bytes; decompress a ``.gz`` file.

    :raises BadInputError: the file cannot be opened, or is empty.
    """
    try:
        file: Any = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise BadInputError(f"{path}: cannot read the data ({error.strerror}); check the path") from error
    try:
        empty = not file.peek(1)
    except READ_ERRORS as error:
        file.close()
        raise _not_gzip(path, error) from error
    if empty:
        file.close()
        raise BadInputError(f"{path}: the file is empty; it needs rows")
    return cast(BinaryIO, file)


def column_position(place: str, names: Sequence[str], column: Column) -> int | None:
    """Return the index of a column in ``names``; None if it is optional and missing.

    :raises BadInputError: a required column is missing, or the column occurs twice.
    """
    if column.name not in names:
        if not column.required:
            return None
        raise missing_column(place, column, names)
    if names.count(column.name) > 1:
        raise BadInputError(f"{place}: the column {column.name!r} occurs twice; rename one")
    return names.index(column.name)


def missing_column(place: str, column: Column, names: Sequence[str]) -> BadInputError:
    """Return the error for a missing column, with the most similar one of ``names``."""
    near = difflib.get_close_matches(column.name, names, n=1)
    how = f"name the right one with {column.option}" if column.option else "rename one"
    advice = f"did you mean {near[0]!r}? {how}" if near else how
    return BadInputError(f"{place}: no column {column.name!r}, only {', '.join(map(repr, names)) or 'none'}; {advice}")


def _values(place: str, value: object, columns: Sequence[Column]) -> tuple[object, ...]:
    """Return the values of the columns in one JSON object."""
    if not isinstance(value, Mapping):
        raise BadInputError(f"{place}: not a JSON object; write one object a line, or an array of objects")
    for column in columns:
        if column.required and column.name not in value:
            raise missing_column(place, column, list(value))
    return tuple(value.get(column.name, ABSENT) for column in columns)


def _delimiter(header: str, columns: Sequence[Column]) -> str:
    """Choose the delimiter that finds the most of ``columns`` in a header line, or else the most fields."""

    def found(delimiter: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return 0, 0
        return sum(column.name in names for column in columns), len(names)

    return max(_DELIMITERS, key=found)


def text_lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file, from number 1.

    :raises BadInputError: the text is not UTF-8, or a compressed file is damaged.
    """
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if number == 1:
                if line.startswith(_UTF16_MARKS):
                    raise BadInputError(f"{path}: the file is UTF-16; save it as UTF-8")
                line = line.removeprefix(_UTF8_MARK)
            yield number, line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path}, line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from error
    except READ_ERRORS as error:
        raise _not_gzip(path, error) from error


def _not_gzip(path: Path, error: Exception) -> BadInputError:
    return BadInputError(f"{path}: cannot read the data ({error}); compress it again, or give the uncompressed file")
