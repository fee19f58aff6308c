"""Rows as notebooks have them, written as a file that devices read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from fwdllm_client.data import Source
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CLASSIFICATION

_NO_NAME = -1
"""The class of a row without a label, in the ``datasets`` library."""


@runtime_checkable
class Frame(Protocol):
    """What we need of a ``pandas.DataFrame``."""

    columns: Any

    def convert_dtypes(self) -> Any:
        """Return the frame with integers that were made floats, for the sake of missing values, as integers again."""


Rows: TypeAlias = str | os.PathLike[str] | Frame | Iterable[Mapping[str, Any]]
"""A file that devices read, a pandas DataFrame, a split of a ``datasets`` dataset, or mappings from column to value."""


class RowReader:
    """Makes files of rows for one ``task``: objects become JSON Lines in ``folder``."""

    def __init__(self, folder: Path, task: str, options: RowOptions) -> None:
        self._folder = folder
        self._task = task
        self._options = options

    def source(self, rows: Rows, name: str, user_column: str | None = None) -> Source:
        """Return the source of ``rows``; ``name`` is its file's, if one is written.

        :raises BadInputError: a column is missing, or this is nothing that holds rows.
        """
        return task_named(self._task).source(self.file(rows, name, user_column), self._options)

    def file(self, rows: Rows, name: str, user_column: str | None = None) -> Path:
        """Return the file of ``rows``; classification has three columns at most, others keep what they have.

        :raises BadInputError: this is nothing that holds rows.
        """
        wanted = None
        if self._task == CLASSIFICATION:
            wanted = [self._options.text_column, self._options.label_column, *([user_column] if user_column else [])]
        return _file_of(rows, self._folder / f"{name}.jsonl", wanted)


def _file_of(rows: Rows, path: Path, wanted: Sequence[str] | None) -> Path:
    if isinstance(rows, str | os.PathLike):
        return Path(rows).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, Frame) and hasattr(rows, "to_json"):
        kept = [column for column in rows.columns if wanted is None or column in wanted]
        frame: Any = rows
        frame[kept].convert_dtypes().to_json(path, orient="records", lines=True, force_ascii=False)
        return path
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        splits = f"; choose a split, such as data[{next(iter(rows))!r}]" if isinstance(rows, Mapping) and rows else ""
        raise BadInputError(
            f"{type(rows).__name__} holds no rows{splits}; give a file, a pandas DataFrame, a datasets Dataset or a "
            "list of dicts"
        )
    with path.open("w", encoding="utf-8") as file:
        for row in _with_names(rows, wanted):
            file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
    return path


def _with_names(rows: Iterable[Mapping[str, Any]], wanted: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the wanted columns, or all; numbers of a ``datasets.ClassLabel`` become its names."""
    features = getattr(rows, "features", None) or {}
    names = {column: feature.names for column, feature in features.items() if hasattr(feature, "names")}
    for row in rows:
        kept = {column: value for column, value in row.items() if wanted is None or column in wanted}
        for column in names.keys() & kept.keys():
            index = kept[column]
            kept[column] = None if index in (None, _NO_NAME) else names[column][index]
        yield kept


def _plain(value: Any) -> Any:
    """Return a value of numpy's as one of Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise BadInputError(f"a row has a value of type {type(value).__name__}; make it a text or a number")
