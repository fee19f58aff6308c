"""Readers of Parquet and Arrow files, and of the folders that Hugging Face's ``datasets`` saves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from fwdllm_client.data.readers import ABSENT, READ_ERRORS, Column, Record, column_position, open_data
from fwdllm_common.errors import BadInputError

FOLDER = "/"
"""The key of folders among file suffixes."""

_BATCH_ROWS = 256
_ARROW_FILE = b"ARROW1"  # the magic number of a file with an index; without it the file is a stream
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_UNLABELLED = -1


def read_parquet(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a Parquet file; class numbers of ``datasets`` become class names.

    :raises BadInputError: pyarrow is not installed, the file is damaged or a column is missing.
    """
    arrow = _pyarrow(path)
    with open_data(path) as stream, _damage_named(path, "Parquet", arrow):
        file = arrow.parquet.ParquetFile(stream)
        wanted = _Wanted(path, file.schema_arrow, columns)
        yield from wanted.records(file.iter_batches(_BATCH_ROWS, columns=wanted.names), count(1))


def read_arrow(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of an Arrow file or stream.

    :raises BadInputError: pyarrow is not installed, the file is damaged or a column is missing.
    """
    yield from _arrow_records(path, columns, count(1))


def read_folder(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the records of a dataset that ``datasets`` has saved with ``save_to_disk``.

    :raises BadInputError: the folder holds no dataset or several; otherwise as for :func:`read_parquet`.
    """
    try:
        if (path / _SPLITS).exists():
            splits = json.loads((path / _SPLITS).read_bytes())["splits"]
            raise BadInputError(
                f"{path}: the folder holds the datasets {', '.join(map(str, splits))}; name one, as {path / splits[0]}"
            )
        files = [path / str(file["filename"]) for file in json.loads((path / _STATE).read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BadInputError(
            f"{path}: cannot read the data (Is a directory), and it is no dataset of save_to_disk; name a file"
        ) from error
    numbers = count(1)
    for file in files:
        yield from _arrow_records(file, columns, numbers)


def _arrow_records(path: Path, columns: Sequence[Column], numbers: Iterator[int]) -> Iterator[Record]:
    arrow = _pyarrow(path)
    with open_data(path) as stream, _damage_named(path, "Arrow", arrow):
        batches = _batches(arrow, stream)
        yield from _Wanted(path, batches.schema, columns).records(batches, numbers)


def _batches(arrow: Any, stream: BinaryIO) -> Any:
    start = stream.read(len(_ARROW_FILE))
    stream.seek(0)
    if start != _ARROW_FILE:
        return arrow.ipc.open_stream(stream)
    file = arrow.ipc.open_file(stream)
    return arrow.RecordBatchReader.from_batches(
        file.schema, (file.get_batch(index) for index in range(file.num_record_batches))
    )


class _Wanted:
    """The requested columns of a table with this schema."""

    def __init__(self, path: Path, schema: Any, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._found = {
            column.name for column in columns if column_position(str(path), schema.names, column) is not None
        }
        self._classes = _class_names(schema)

    @property
    def names(self) -> list[str]:
        return sorted(self._found)

    def records(self, batches: Any, numbers: Iterator[int]) -> Iterator[Record]:
        for batch in batches:
            values = [self._values(batch, column.name) for column in self._columns]
            # In this order: at its end zip discards an item of the first iterator, which must not be a number.
            for record, number in zip(zip(*values, strict=True), numbers, strict=False):
                yield number, record

    def _values(self, batch: Any, name: str) -> list[object]:
        if name not in self._found:
            return [ABSENT] * batch.num_rows
        values: list[object] = batch.column(name).to_pylist()
        classes = self._classes.get(name)
        return values if classes is None else [_class_name(classes, value) for value in values]


def _class_names(schema: Any) -> Mapping[str, Sequence[str]]:
    """Return the class names of each column that ``datasets`` has declared as a ``ClassLabel``, or a list of them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _class_label(feature) for name, feature in features.items()}
        return {name: [str(each) for each in label["names"]] for name, label in found.items() if label}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_label(feature: Any) -> Any:
    """Return the ``ClassLabel`` that a feature is or is a list of, None if there is none."""
    (inner,) = feature if isinstance(feature, list) else [feature.get("feature", feature)]
    return inner if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel" else None


def _class_name(classes: Sequence[str], value: object) -> object:
    if isinstance(value, list):
        return [_class_name(classes, each) for each in value]
    if value == _UNLABELLED:
        return None
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise BadInputError(f"{path}: reading it needs pyarrow; pip install 'fwdllm[parquet]'") from error
    return pyarrow


@contextmanager
def _damage_named(path: Path, kind: str, arrow: Any) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, *READ_ERRORS) as error:
        raise BadInputError(f"{path}: not a readable {kind} file ({error}); write it again") from error
