"""CoNLL files: a word a line with its tag in the last column, and an empty line after each sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fwdllm_client.data.readers import ABSENT, Column, Record, missing_column, open_data, text_lines
from fwdllm_common.errors import BadInputError

SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".txt")
TOKENS, TAGS = "tokens", "ner_tags"
"""The columns of the records."""
_DOCUMENT = "-DOCSTART-"


def read_conll(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Read the sentences of a file as records with the columns :data:`TOKENS` and :data:`TAGS`.

    A record's line is that of its first word. Columns are separated by tabs, or else by spaces, and the words of a file
    have the same number of them. Lines that begin documents are left out.

    :raises BadInputError: a column is missing, a line has too few or too many columns, or the text is not UTF-8.
    """
    for column in columns:
        if column.required:
            raise missing_column(str(path), column, [TOKENS, TAGS])
    width = start = 0
    words: list[str] = []
    tags: list[str] = []
    with open_data(path) as file:
        for number, line in text_lines(path, file):
            fields = [field.strip() for field in line.rstrip("\r\n").split("\t")] if "\t" in line else line.split()
            if not any(fields) or fields[0] == _DOCUMENT:
                if words:
                    yield start, _values(columns, words, tags)
                words, tags = [], []
                continue
            width = width or len(fields)
            if len(fields) != width or width == 1 or not fields[0]:
                raise BadInputError(
                    f"{path}, line {number}: {len(fields)} columns, where a word and its tag are two and the lines "
                    f"before have {width}; give each word a line with the same columns, the tag last, without comments"
                )
            start = start if words else number
            words.append(fields[0])
            tags.append(fields[-1])
    if words:
        yield start, _values(columns, words, tags)


def _values(columns: Sequence[Column], words: list[str], tags: list[str]) -> tuple[object, ...]:
    found = {TOKENS: words, TAGS: tags}
    return tuple(found.get(column.name, ABSENT) for column in columns)
