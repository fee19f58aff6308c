"""Questions in a local file: contexts, questions, and the spans that answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fwdllm_client.data.readers import ABSENT, Column, Reader
from fwdllm_client.data.record_source import RecordSource
from fwdllm_client.data.records import TABLES, text_of
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
_ID = [column.name for column in _COLUMNS].index("id")


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
class QuestionSource(RecordSource[Question]):
    """A table with the columns :data:`COLUMNS`, or a JSON file in SQuAD's own format.

    Instead of the last two columns there may be ``answers``, as in Hugging Face's ``datasets``: a struct of the lists
    ``text`` and ``answer_start``. A question with several answers has lists in the last two columns. With
    ``user_column`` and ``user`` only the rows with the value ``user`` in that column are used. Questions without an
    answer are left out unless ``no_answer`` is set.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    readers: ClassVar[Mapping[str, Reader]] = {**TABLES, ".json": read_questions}
    left_out_event: ClassVar[str] = "questions without an answer are left out"
    path: Path
    user_column: str | None = None
    user: str | None = None
    no_answer: bool = False

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return QUESTION_ANSWERING

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of both forms of a question, and of its name."""
        return _COLUMNS

    @property
    def nothing_left(self) -> str:
        """Why no row is left."""
        return "none of its questions has an answer, so there is nothing to learn"

    def row(self, place: str, line: int, values: Sequence[object]) -> Question | None:
        """Return the question, None for one without an answer unless ``no_answer`` is set.

        :raises BadInputError: a value is missing or wrong, or an answer is not at its stated start.
        """
        question, context, start, answer, both, _name = values
        starts, answers = _answers(place, start, answer, both)
        row = Question(
            line,
            text_of(place, "question", question),
            text_of(place, "context", context),
            [_start(place, value) for value in starts],
            [text_of(place, "answer", value) for value in answers],
        )
        _check(place, row)
        return row if row.answers or self.no_answer else None

    def texts(self) -> list[str]:
        """Return question and context of each row.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [f"{row.question} {row.context}" for row in self.rows()]

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise pairs of question and context; their labels are spans of tokens.

        :raises BadInputError: the file or a row is wrong, or all answers are cut off.
        """
        from fwdllm_client.tasks.question_answering.passages import tokenise

        return tokenise(replace(self, no_answer=manifest.no_answer), tokenizer_file, manifest)

    def _place(self, place: str, values: Sequence[object]) -> str:
        name = values[_ID]
        return place if name in (None, ABSENT) else f"{place} (id {name!r})"


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
