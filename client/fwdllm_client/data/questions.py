"""Where a device's questions come from: a local file of contexts with questions and the spans that answer them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fwdllm_client.data.records import TABLES, RecordFile
from fwdllm_client.data.squad_file import read_squad
from fwdllm_common.errors import BadInputError

COLUMNS = ("question", "context", "answer_start", "answer")
_READERS = {**TABLES, ".json": read_squad}


@dataclass(frozen=True, slots=True)
class Question:
    """One example: where it starts in its file, the question, the context, and the answers.

    ``starts`` are the characters of the context at which the ``answers`` begin; the first one is learnt, any counts as
    right.
    """

    line: int
    question: str
    context: str
    starts: Sequence[int]
    answers: Sequence[str]


@dataclass(frozen=True)
class QuestionSource:
    """A CSV, JSON Lines or Parquet file with the columns :data:`COLUMNS`, or a JSON file in SQuAD's own format.

    A question with several answers has lists in the last two columns. With ``user_column`` and ``user`` only the rows
    that have ``user`` in that column count.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    path: Path
    user_column: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        _ = self._file

    def rows(self) -> Iterator[Question]:
        """The questions in the order of the file.

        :raises BadInputError: the file or a row is wrong, an answer is not where it is said to be, or no row is left.
        """
        file = self._file
        for line, (question, context, start, answer) in file.records():
            row = Question(
                line,
                file.text(line, "question", question),
                file.text(line, "context", context),
                [self._start(line, value) for value in _listed(start)],
                [file.text(line, "answer", value) for value in _listed(answer)],
            )
            self._check(row)
            yield row

    def values(self, column: str) -> list[str]:
        """What each row has in another column; of SQuAD's format ``title`` is one.

        :raises BadInputError: the file is wrong or has no such column.
        """
        return self._file.other(column)

    def place(self, line: int) -> str:
        """The file and line for a message."""
        return self._file.place(line)

    @property
    def _file(self) -> RecordFile:
        return RecordFile(self.path, COLUMNS, self.user_column, self.user, _READERS)

    def _start(self, line: int, value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadInputError(
                f"{self.place(line)}: 'answer_start' is {value!r}; it must be the character of the context at which "
                "the answer begins, 0 for the first"
            )
        return value

    def _check(self, row: Question) -> None:
        if not row.answers or len(row.answers) != len(row.starts):
            raise BadInputError(
                f"{self.place(row.line)}: {len(row.answers)} answers and {len(row.starts)} starts; every question "
                "needs an answer from its context, and every answer its start"
            )
        for start, answer in zip(row.starts, row.answers, strict=True):
            if not answer.strip():
                raise BadInputError(f"{self.place(row.line)}: 'answer' is empty; fill it in or drop the row")
            if not row.context.startswith(answer, start):
                raise BadInputError(
                    f"{self.place(row.line)}: the context has {row.context[start : start + len(answer)]!r} at "
                    f"character {start}, not the answer {answer!r}; correct 'answer_start' (characters, not bytes)"
                )


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
