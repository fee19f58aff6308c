"""The columns of texts that may be pairs, by the names that they usually have in Hugging Face's datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwdllm_client.data.readers import ABSENT, Column
from fwdllm_client.data.records import text_of
from fwdllm_common.errors import BadInputError

TEXT = "text"
"""The usual name of the column of texts; where it is not named otherwise, pairs are looked for too."""
PAIRS = (
    (TEXT, "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "passage"),
    ("question", "sentence"),
    ("query", "passage"),
    ("text1", "text2"),
)
OPTIONS = "--text-column and --pair-column, in a job file [held_out] text_column and pair_column"
SEPARATOR = "[SEP]"
"""What stands between the texts of a pair: a first text with it would end there."""

Text = str | tuple[str, str]
"""A text, or a pair of texts."""


@dataclass(frozen=True)
class TextColumns:
    """The columns of the first and the second text; of a first one that has its usual name :data:`PAIRS` are tried."""

    first: str = TEXT
    second: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns to read."""
        names = [name for pair in self._pairs for name in pair]
        return tuple(Column(name, OPTIONS, required=False) for name in dict.fromkeys(names))

    def pair(self, place: str, values: Sequence[object]) -> tuple[object, object]:
        """Return the texts of a pair among the values of the columns; of none, both are :data:`ABSENT`.

        :raises BadInputError: columns were named, and one is missing.
        """
        by_name = {column.name: value for column, value in zip(self.columns, values, strict=True)}
        for first, second in self._pairs:
            if ABSENT not in (by_name[first], by_name[second]):
                return by_name[first], by_name[second]
        if self.second is not None:
            raise BadInputError(f"{place}: no columns {self.first!r} and {self.second!r}; name them with {OPTIONS}")
        return ABSENT, ABSENT

    def single(self, values: Sequence[object]) -> object:
        """Return the text of a row that is no pair, :data:`ABSENT` if there is none."""
        return values[[column.name for column in self.columns].index(self.first)]

    @property
    def _pairs(self) -> Sequence[tuple[str, str]]:
        if self.second is not None:
            return ((self.first, self.second),)
        return PAIRS if self.first == TEXT else ((self.first, "text_pair"),)


def pair_of(place: str, first: object, second: object) -> tuple[str, str]:
    """Check the texts of a pair and return them.

    :raises BadInputError: one is no text, or the first has the separator of pairs in it.
    """
    texts = text_of(place, "the first text of the pair", first), text_of(place, "the second text of the pair", second)
    if SEPARATOR in texts[0]:
        raise BadInputError(
            f"{place}: the first text has {SEPARATOR!r} in it, by which models find where the second one begins; take "
            "it out"
        )
    return texts


def no_pair(place: str) -> BadInputError:
    """Return the error for a row without the columns of a pair."""
    known = ", ".join(f"{first} and {second}" for first, second in PAIRS)
    return BadInputError(f"{place}: no columns of a pair of texts ({known}); name them with {OPTIONS}")
