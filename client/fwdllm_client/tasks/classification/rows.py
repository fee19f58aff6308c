"""Texts with labels in a local file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fwdllm_client.data.labelled import LabelledSource, Row
from fwdllm_client.data.records import LeftOut
from fwdllm_client.data.source import Contents
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CLASSIFICATION

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

__all__ = ["DataSource", "Row"]

_SEPARATORS = ("[SEP]", "</s>")
_log = structlog.get_logger()


@dataclass(frozen=True)
class DataSource(LabelledSource[str]):
    """A table with a text and a label column."""

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return CLASSIFICATION

    def contents(self) -> Contents:
        """Count rows and labels; log rows that are left out, and texts that contain a separator of pairs.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        left_out = LeftOut()
        labels = Counter[str]()
        pairs = 0
        for row in self.rows(left_out):
            labels[row.label] += 1
            pairs += isinstance(row.text, str) and any(separator in row.text for separator in _SEPARATORS)
        self._log_left_out(left_out, labels.total())
        if pairs:
            _log.warning(
                "texts hold a separator: the model is not told that they are pairs, and reads both parts as one text; "
                "for pairs there is the task pair-classification",
                file=str(self.path),
                rows=pairs,
            )
        return Contents(self.task, labels.total(), tuple(sorted(labels)), left_out.rows, dict(labels))

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; their labels are class indices, int32 ``[rows]``.

        :raises BadInputError: the file or a row is wrong, or a label is not one of the model's.
        """
        from fwdllm_client.tasks.classification.tokens import labelled

        return labelled(self, tokenizer_file, manifest)

    @property
    def no_label(self) -> str:
        """Return the label of a row whose label is not read."""
        return ""

    def label(self, place: str, values: Sequence[object]) -> str:
        """Return the label without the space around it.

        :raises BadInputError: it is empty, or no text and no whole number.
        """
        (value,) = values
        return class_name(place, self.label_column, value)


def class_name(place: str, column: str, value: object) -> str:
    """Return the name of a class, from a text, a whole number or a truth value, without the space around it.

    :raises BadInputError: it is empty, or something else.
    """
    if isinstance(value, bool):
        return str(value).lower()
    label = str(value).strip() if isinstance(value, str | int) else ""
    if not label:
        what = "empty" if isinstance(value, str) or value is None else "neither a text nor a whole number"
        raise BadInputError(
            f"{place}: {column!r} is {what}; give the row a label, drop it, or leave such rows out with "
            "--skip-incomplete, in a job file [held_out] skip_incomplete"
        )
    return label
