"""Texts, or pairs of texts, with a number each in a local file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fwdllm_client.data.labelled import LabelledSource
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import REGRESSION

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

_LARGEST = 1e18
"""Squares of larger numbers are near the end of float32."""


@dataclass(frozen=True)
class ValueSource(LabelledSource[float]):
    """A table with one or two columns of texts and one of numbers."""

    left_out_event: ClassVar[str] = "rows without a text or a number are left out"
    reads_pairs: ClassVar[bool] = True

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return REGRESSION

    @property
    def no_label(self) -> float:
        """The number of a row whose number is not read."""
        return math.nan

    def label(self, place: str, values: Sequence[object]) -> float:
        """Return the number.

        :raises BadInputError: it is none, or not finite.
        """
        (value,) = values
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= _LARGEST:
            raise BadInputError(
                f"{place}: {self.label_column!r} is {value!r:.80}, which is no finite number; correct it, drop the "
                "row, or leave empty ones out with --skip-incomplete, in a job file [held_out] skip_incomplete"
            )
        return number

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; their labels are the numbers, float32 ``[rows]``.

        :raises BadInputError: the file or a row is wrong.
        """
        from fwdllm_client.tasks.regression.tokens import labelled

        return labelled(self, tokenizer_file, manifest)
