"""Questions in a local file: contexts, questions, and the spans that answer them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fwdllm_client.data.readers import ABSENT, Column
from fwdllm_client.data.records import TABLES, LeftOut, RecordFile, filled, text_of
from fwdllm_client.data.source import Contents, Source
from fwdllm_client.tasks.question_answering.squad_file import read_questions
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import QUESTION_ANSWERING

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

COLUMNS = ("question", "context", "answer_start", "answer")
_COLUMNS = (
    Column("question"),
    Column("context"),
    *(Column(name, required=False) for name in ("answer_start", "answer", "answers", "id")),
)
_log = structlog.get_logger()
_READERS = {**TABLES, ".json": read_questions}


@dataclass(frozen=True, slots=True)
class Question:
    """One example: its line in the file, the question, the context, and the answers.

    ``starts`` are the offsets in the context at which the ``answers`` begin, in characters. The first answer is the
    target, and any of them counts as correct. Both are empty for a question without an answer.
    """

    line: int
    question: str
    context: str
    starts: Sequence[int]
    answers: Sequence[str]


@dataclass(frozen=True)
class QuestionSource(Source):
    """A table with the columns :data:`COLUMNS`, or a JSON file in SQuAD's own format.

    Instead of the last two columns there may be ``answers``, as in Hugging Face's ``datasets``: a struct of the lists
    ``text`` and ``answer_start``. A question with several answers has lists in the last two columns. With
    ``user_column`` and ``user`` only the rows with the value ``user`` in that column are used. Questions without an
    answer are left out unless ``no_answer`` is set.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    path: Path
    user_column: str | None = None
    user: str | None = None
    no_answer: bool = False

    def __post_init__(self) -> None:
        _ = self._file()

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return QUESTION_ANSWERING

    def rows(self, left_out: LeftOut | None = None) -> Iterator[Question]:
        """Yield the questions in the order of the file; those that are left out are counted in ``left_out``.

        :raises BadInputError: the file or a row is wrong, an answer is not at its stated start, or no row is left.
        """
        return (row for row, _ in self._read(None, left_out or LeftOut()))

    def values(self, column: str) -> list[str]:
        """Return each row's value in another column; SQuAD's format has the column ``title``.

        :raises BadInputError: the file is wrong or has no such column.
        """
        return [value for _, value in self._read(column, LeftOut())]

    def texts(self) -> list[str]:
        """Return question and context of each row.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [f"{row.question} {row.context}" for row in self.rows()]

    def contents(self) -> Contents:
        """Count the questions; log how many are left out.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        left_out = LeftOut()
        rows = sum(1 for _ in self.rows(left_out))
        if left_out.rows:
            _log.warning("questions without an answer are left out", file=str(self.path), rows=left_out.rows, kept=rows)
        return Contents(QUESTION_ANSWERING, rows, left_out=left_out.rows)

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise pairs of question and context; their labels are spans of tokens.

        :raises BadInputError: the file or a row is wrong, or all answers are cut off.
        """
        from fwdllm_client.tasks.question_answering.passages import tokenise

        return tokenise(replace(self, no_answer=manifest.no_answer), tokenizer_file, manifest)

    def place(self, line: int) -> str:
        """Return the file and line for a message."""
        return self._file().place(line)

    def _file(self, other: str | None = None) -> RecordFile:
        columns = _COLUMNS if other is None else (*_COLUMNS, Column(other))
        return RecordFile(self.path, columns, self.user_column, self.user, _READERS)

    def _read(self, other: str | None, left_out: LeftOut) -> Iterator[tuple[Question, str]]:
        file = self._file(other)
        found = False
        for line, (question, context, start, answer, both, name, *rest) in file.records():
            place = file.place(line) if name in (None, ABSENT) else f"{file.place(line)} (id {name!r})"
            starts, answers = _answers(place, start, answer, both)
            row = Question(
                line,
                text_of(place, "question", question),
                text_of(place, "context", context),
                [_start(place, value) for value in starts],
                [text_of(place, "answer", value) for value in answers],
            )
            _check(place, row)
            if not row.answers and not self.no_answer:
                left_out.rows += 1
                continue
            found = True
            yield row, filled(place, other, rest[0]) if other is not None else ""
        if not found:
            raise BadInputError(f"{self.path}: none of its questions has an answer, so there is nothing to learn")


def _answers(place: str, start: object, answer: object, both: object) -> tuple[list[object], list[object]]:
    """Return starts and texts of the answers from either form; empty lists if there is no answer."""
    if both is ABSENT:
        if ABSENT in (start, answer):
            raise BadInputError(
                f"{place}: no columns 'answer_start' and 'answer', nor 'answers' with a text and an answer_start each; "
                "rename those that hold them"
            )
        return ([], []) if _nothing(start) and _nothing(answer) else (_listed(start), _listed(answer))
    try:
        if isinstance(both, Mapping):
            return _listed(both["answer_start"]), _listed(both["text"])
        each = [] if both is None else _listed(both)
        return [item["answer_start"] for item in each], [item["text"] for item in each]  # type: ignore[index]
    except (KeyError, TypeError) as error:
        raise BadInputError(
            f"{place}: 'answers' is {both!r:.80}; it must be a struct of the lists text and answer_start, or a list of "
            "such structs"
        ) from error


def _nothing(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _start(place: str, value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInputError(
            f"{place}: 'answer_start' is {value!r}; it must be the character of the context at which the answer "
            "begins, 0 for the first"
        )
    return value


def _check(place: str, row: Question) -> None:
    if len(row.answers) != len(row.starts):
        raise BadInputError(
            f"{place}: {len(row.answers)} answers and {len(row.starts)} starts; every answer needs its start"
        )
    for start, answer in zip(row.starts, row.answers, strict=True):
        if not answer.strip():
            raise BadInputError(f"{place}: 'answer' is empty; fill it in or drop the row")
        if not row.context.startswith(answer, start):
            raise BadInputError(
                f"{place}: the context has {row.context[start : start + len(answer)]!r} at character {start}, not the "
                f"answer {answer!r}; correct 'answer_start' (characters, not bytes)"
            )
