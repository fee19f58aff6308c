"""Prompts with completions, conversations and plain texts in a local file, as TRL's trainers read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fwdllm_client.data.readers import ABSENT, Column
from fwdllm_client.data.record_source import RecordSource
from fwdllm_client.data.records import text_of
from fwdllm_common.errors import BadInputError
from fwdllm_common.task import CAUSAL_LM

if TYPE_CHECKING:
    from fwdllm_client.data.dataset import Dataset
    from fwdllm_common.manifest import Manifest

ASSISTANT = "assistant"
Message = Mapping[str, object]
"""A turn of a conversation: ``role``, ``content``, and what else the chat template reads."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One example: its line in the file, and one of three.

    It is a ``prompt`` with a ``completion``, a plain text (``completion`` alone), or ``messages`` of which the
    assistant's from index ``learnt_from`` on are learnt.
    """

    line: int
    completion: str = ""
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    learnt_from: int = 0

    @property
    def text(self) -> str:
        """The whole text, without what a chat template adds."""
        if self.messages:
            return "\n".join(str(message["content"]) for message in self.messages)
        return f"{self.prompt or ''}{self.completion}"


@dataclass(frozen=True)
class CompletionSource(RecordSource[Completion]):
    """A table with the columns ``prompt`` and ``completion``, or ``messages``, or a column of plain texts.

    The columns of a row say which it is. Prompt and completion are texts, or lists of messages. With ``user_column``
    and ``user`` only the rows with the value ``user`` in that column are used. With ``skip_incomplete`` rows without
    anything to learn are left out; otherwise they are errors.

    :raises BadInputError: an unknown file type, or only one of ``user_column`` and ``user``.
    """

    left_out_event: ClassVar[str] = "rows without a completion are left out"
    path: Path
    text_column: str = "text"
    user_column: str | None = None
    user: str | None = None
    skip_incomplete: bool = False

    @property
    def task(self) -> str:
        """The name of the task that the rows are for."""
        return CAUSAL_LM

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of all forms of a row."""
        names = ("prompt", "completion", "messages", self.text_column)
        return tuple(Column(name, required=False) for name in names)

    @property
    def nothing_left(self) -> str:
        """Why no row is left."""
        return "none of its rows has a completion, so there is nothing to learn"

    def texts(self) -> list[str]:
        """Return the text of each row.

        :raises BadInputError: the file or a row is wrong, or no row is left.
        """
        return [row.text for row in self.rows()]

    def tokenised(self, tokenizer_file: Path, manifest: Manifest) -> Dataset:
        """Tokenise the rows; the labels are the tokens to be predicted.

        :raises BadInputError: the file or a row is wrong, the chat template fails, or a completion is too long.
        """
        from fwdllm_client.tasks.causal_lm.tokens import tokenise

        return tokenise(self, tokenizer_file, manifest.max_tokens, manifest.chat)

    def row(self, place: str, line: int, values: Sequence[object]) -> Completion | None:
        """Return the row in the form that its columns have, None for one to be left out.

        :raises BadInputError: it has none of the forms, or nothing to learn and ``skip_incomplete`` is not set.
        """
        prompt, completion, messages, text = values
        if messages not in (ABSENT, None):
            row = Completion(line, messages=_messages(place, "messages", messages))
        elif isinstance(prompt, list) or isinstance(completion, list):
            before = _messages(place, "prompt", prompt)
            turns = (*before, *_messages(place, "completion", completion))
            row = Completion(line, messages=turns, learnt_from=len(before))
        elif ABSENT not in (prompt, completion):
            answer = "" if completion is None else text_of(place, "completion", completion)
            row = Completion(line, answer, text_of(place, "prompt", prompt))
        elif text is not ABSENT:
            row = Completion(line, "" if text is None else text_of(place, self.text_column, text))
        else:
            raise BadInputError(
                f"{place}: no columns 'prompt' and 'completion', no 'messages' and no {self.text_column!r}; rename "
                "those that hold them, or name that of plain texts with --text-column, in a job file [held_out] "
                "text_column"
            )
        if _has_completion(row):
            return row
        if self.skip_incomplete:
            return None
        missing = f"no turn of the {ASSISTANT!r}" if row.messages or messages == [] else "an empty completion"
        raise BadInputError(
            f"{place}: it has {missing}, so there is nothing to learn; fill it in, drop the row, or leave such rows "
            "out with --skip-incomplete, in a job file [held_out] skip_incomplete"
        )


def _has_completion(row: Completion) -> bool:
    if not row.messages:
        return bool(row.completion.strip())
    return any(turn["role"] == ASSISTANT and str(turn["content"]).strip() for turn in row.messages[row.learnt_from :])


def _messages(place: str, column: str, value: object) -> tuple[Message, ...]:
    turns = value if isinstance(value, list | tuple) else None
    if turns is None or not all(
        isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    ):
        raise BadInputError(f"{place}: {column!r} must be a list of messages, each with a role and a content, texts")
    for turn in turns:
        text_of(place, column, turn["content"])
    return tuple(turns)
