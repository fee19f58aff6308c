"""Records of a CSV, JSON Lines or Parquet file, one at a time, as the values of the wanted columns."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from fwdllm_common.errors import BadInputError

Record = tuple[int, tuple[object, ...]]
"""Line (of a Parquet file: row) where the record starts, 1 for the first, and its values."""

_MAX_FIELD_CHARACTERS = 1 << 24
_PARQUET_BATCH_ROWS = 256
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a CSV file with a header line.

    :raises BadInputError: a column is missing, a quote is not closed, a record has too few or too many fields, or the
        text is not UTF-8.
    """
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    with open_data(path) as file:
        reader = csv.reader((line for _, line in _lines(path, file)), strict=True)
        header: list[str] = []
        positions: list[int] = []
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
                positions = [_position(path, header, column) for column in columns]
            elif len(fields) != len(header):
                raise BadInputError(
                    f"{path}, line {start}: {len(fields)} fields, but the header has {len(header)}; "
                    "quote the fields that contain a comma"
                )
            else:
                yield start, tuple(fields[position] for position in positions)


def read_jsonl(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a JSON Lines file, one object a line.

    :raises BadInputError: a line is cut off or no object, a column is missing in it, or the text is not UTF-8.
    """
    with open_data(path) as file:
        for number, line in _lines(path, file):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInputError(
                    f"{path}, line {number}: not a whole JSON object ({error}); "
                    "write one object a line and check that the file was not cut off"
                ) from error
            if not isinstance(value, dict):
                raise BadInputError(f"{path}, line {number}: not a JSON object; write one object a line")
            for column in columns:
                if column not in value:
                    raise missing_column(f"{path}, line {number}", column, list(value))
            yield number, tuple(value[column] for column in columns)


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a Parquet file.

    :raises BadInputError: pyarrow is not installed, the file is damaged or a column is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInputError(f"{path}: reading Parquet needs pyarrow; pip install 'fwdllm[parquet]'") from error
    with open_data(path) as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            for column in columns:
                _position(path, file.schema_arrow.names, column)
            number = 0
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                values = [batch.column(column).to_pylist() for column in columns]
                for record in zip(*values, strict=True):
                    number += 1
                    yield number, record
        except (pyarrow.ArrowException, OSError) as error:
            raise BadInputError(f"{path}: not a readable Parquet file ({error}); write it again") from error


def open_data(path: Path) -> BinaryIO:
    """The file, to be read as bytes.

    :raises BadInputError: it cannot be opened, or is empty.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInputError(f"{path}: cannot read the data ({error.strerror}); check the path") from error
    if not file.peek(1):
        file.close()
        raise BadInputError(f"{path}: the file is empty; it needs rows")
    return file


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        if number == 1:
            if line.startswith(_UTF16_MARKS):
                raise BadInputError(f"{path}: the file is UTF-16; save it as UTF-8")
            line = line.removeprefix(_UTF8_MARK)
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"{path}, line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
            ) from error


def _position(path: Path, names: list[str], column: str) -> int:
    if column not in names:
        raise missing_column(str(path), column, names)
    if names.count(column) > 1:
        raise BadInputError(f"{path}: the column {column!r} occurs twice; rename one")
    return names.index(column)


def missing_column(place: str, column: str, names: list[str]) -> BadInputError:
    """What is wrong with a file that has other columns."""
    near = difflib.get_close_matches(column, names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "name the right one"
    return BadInputError(f"{place}: no column {column!r}, only {', '.join(map(repr, names)) or 'none'}; {advice}")
