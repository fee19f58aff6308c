"""Texts with any number of labels in a local file."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fwdllm_client.data.labelled import OPTION, LabelledSource
from fwdllm_client.data.readers import Column
from fwdllm_client.data.records import LeftOut
from fwdllm_client.data.source import Contents
from fwdllm_client.tasks.classification.rows import class_name
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import MULTI_LABEL

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

SEPARATORS = ("|", ";", ",")
"""What separates labels in one text: the first of these that it has in it."""
_YES_AND_NO = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}


@dataclass(frozen=True)
class LabelsSource(LabelledSource[tuple[str, ...]]):
    """A table with a column of texts and one of labels, or one for each label.

    Labels of a row are a list, in JSON or as Python prints it, or a text with one of :data:`SEPARATORS`; an empty one
    has no labels. Where ``label_column`` names several columns with commas in between, each is a label that a row has
    (1, true) or has not (0, false).
    """

    left_out_event: ClassVar[str] = "rows without a text or with an empty field of labels are left out"

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return MULTI_LABEL

    @property
    def no_label(self) -> tuple[str, ...]:
        """The labels of a row whose labels are not read."""
        return ()

    @property
    def label_columns(self) -> tuple[Column, ...]:
        """The columns of the labels."""
        return tuple(Column(name, OPTION.format("label")) for name in self._names)

    def label(self, place: str, values: Sequence[object]) -> tuple[str, ...]:
        """Return the row's labels, each once.

        :raises BadInputError: the field holds none of the forms, or one of several columns is neither yes nor no.
        """
        if len(self._names) > 1:
            return tuple(name for name, value in zip(self._names, values, strict=True) if _is_yes(place, name, value))
        labels = _listed(place, self.label_column, values[0])
        return tuple(dict.fromkeys(class_name(place, self.label_column, each) for each in labels))

    def contents(self) -> Contents:
        """Count the rows, and those of each label.

        :raises BadInputError: the file or a row is wrong, no row is left, or none has a label.
        """
        left_out, rows = LeftOut(), 0
        labels = Counter[str]()
        for row in self.rows(left_out):
            rows += 1
            labels.update(row.label)
        if not labels:
            raise BadInputError(
                f"{self.path}: none of its rows has a label in {self.label_column!r}; choose the column"
            )
        self._log_left_out(left_out, rows)
        return Contents(self.task, rows, tuple(sorted(labels)), left_out.rows, dict(labels))

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; their labels are 1 and 0 for each of the model's, float32 ``[rows, labels]``.

        :raises BadInputError: the file or a row is wrong, or a label is not one of the model's.
        """
        from fwdllm_client.tasks.multi_label.tokens import labelled

        return labelled(self, tokenizer_file, manifest)

    @property
    def _names(self) -> Sequence[str]:
        return [name.strip() for name in self.label_column.split(",") if name.strip()] or [self.label_column]


def _listed(place: str, column: str, value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        raise BadInputError(
            f"{place}: {column!r} is {value!r:.80}; give a list of labels, empty if there are none, or a text with "
            f"{' or '.join(map(repr, SEPARATORS))} in between"
        )
    text = value.strip()
    if text.startswith("["):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise BadInputError(
                f"{place}: {column!r} is no list ({text!r:.80}); close its brackets and quotes"
            ) from error
        return found if isinstance(found, list) else [found]
    separator = next((each for each in SEPARATORS if each in text), None)
    return [each for each in (text.split(separator) if separator else [text]) if each.strip()]


def _is_yes(place: str, column: str, value: object) -> bool:
    found = _YES_AND_NO.get(str(value).strip().lower())
    if found is None:
        raise BadInputError(f"{place}: {column!r} is {value!r:.80}; a column for one label holds 1 or 0, true or false")
    return found
