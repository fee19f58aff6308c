"""Sentences of tagged words in a local file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fwdllm_client.data.readers import ABSENT, Column, Reader
from fwdllm_client.data.record_source import RecordSource
from fwdllm_client.data.records import TABLES, LeftOut, text_of
from fwdllm_client.data.source import Contents
from fwdllm_client.tasks.token_classification.conll import SUFFIXES, TAGS, TOKENS, read_conll
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import TOKEN_CLASSIFICATION

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

_TOKENS = (TOKENS, "words")
_TAGS = (TAGS, "tags", "labels", "pos_tags", "label")


@dataclass(frozen=True, slots=True)
class Tagged:
    """One sentence: its first line in the file (its row, for files without lines), its words and a tag for each.

    The tags of a sentence whose tags are not read are empty.
    """

    line: int
    words: Sequence[str]
    tags: Sequence[str]


@dataclass(frozen=True)
class TaggedSource(RecordSource[Tagged]):
    """A CoNLL file, or a table with a column of lists of words and one of lists of tags.

    Columns that are called otherwise than in Hugging Face's ``datasets`` are named. With ``user_column`` and ``user``
    only the rows with the value ``user`` in that column are used. With ``skip_incomplete`` rows without words or tags
    are left out; otherwise they are errors. Without ``has_tags`` no tag is read.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    readers: ClassVar[Mapping[str, Reader]] = {**TABLES, **dict.fromkeys(SUFFIXES, read_conll)}
    left_out_event: ClassVar[str] = "rows without words or tags are left out"
    path: Path
    text_column: str = "text"
    label_column: str = "label"
    user_column: str | None = None
    user: str | None = None
    skip_incomplete: bool = False
    has_tags: bool = True

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return TOKEN_CLASSIFICATION

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that words and tags may be in."""
        return tuple(Column(name, required=False) for name in (*self._words, *self._tags))

    @property
    def nothing_left(self) -> str:
        """Why no row is left."""
        return "none of its rows has words with tags; fill them in"

    def row(self, place: str, line: int, values: Sequence[object]) -> Tagged | None:
        """Return the sentence of words and tags.

        :raises BadInputError: words or tags are missing or no lists of texts, or there are not as many tags as words.
        """
        by_name = dict(zip([column.name for column in self.columns], values, strict=True))
        words = _column(place, "words", "--text-column, in a job file [held_out] text_column", self._words, by_name)
        tags: tuple[str, object] = ("", [])
        if self.has_tags:
            tags = _column(place, "tags", "--label-column, in a job file [held_out] label_column", self._tags, by_name)
        if self.skip_incomplete and (words[1] in (None, "", []) or (self.has_tags and tags[1] in (None, "", []))):
            return None
        found = Tagged(line, _texts(place, *words), _texts(place, *tags) if self.has_tags else ())
        if not found.words:
            raise BadInputError(
                f"{place}: {words[0]!r} is empty; drop the row, or leave such rows out with --skip-incomplete, in a "
                "job file [held_out] skip_incomplete"
            )
        if self.has_tags and len(found.tags) != len(found.words):
            raise BadInputError(
                f"{place}: {len(found.words)} words in {words[0]!r} and {len(found.tags)} tags in {tags[0]!r}; give "
                "each word one tag"
            )
        return found

    def texts(self) -> list[str]:
        """Return the words of each row as a text.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [" ".join(row.words) for row in self.rows()]

    def contents(self) -> Contents:
        """Count the rows, and collect the tags.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        left_out, rows = LeftOut(), 0
        tags = Counter[str]()
        for row in self.rows(left_out):
            rows += 1
            tags.update(row.tags)
        self._log_left_out(left_out, rows)
        return Contents(self.task, rows, tuple(sorted(tags)), left_out.rows)

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; the first token of a word has the index of its tag as its label.

        :raises BadInputError: the file or a row is wrong, or a tag is not one of the model's.
        """
        from fwdllm_client.tasks.token_classification.tokens import tokenise

        return tokenise(self, tokenizer_file, manifest)

    @property
    def _words(self) -> Sequence[str]:
        return _TOKENS if self.text_column == "text" else (self.text_column,)

    @property
    def _tags(self) -> Sequence[str]:
        return _TAGS if self.label_column == "label" else (self.label_column,)


def _column(
    place: str, what: str, option: str, names: Sequence[str], by_name: Mapping[str, object]
) -> tuple[str, object]:
    """Return the first of the columns that there is, and its value."""
    for name in names:
        if by_name[name] is not ABSENT:
            return name, by_name[name]
    raise BadInputError(f"{place}: no column of {what} ({', '.join(map(repr, names))}); name it with {option}")


def _texts(place: str, column: str, value: object) -> Sequence[str]:
    """Return a list of texts, from a list or from a text with white space in between."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        raise BadInputError(f"{place}: {column!r} is {value!r:.80}; it must be a list of texts, one for each word")
    if value and all(isinstance(each, int) for each in value):
        raise BadInputError(
            f"{place}: {column!r} has numbers whose names nobody knows; write the names of the tags, or save the "
            "dataset with save_to_disk or to_parquet, which keep them"
        )
    return [text_of(place, column, each) for each in value]
