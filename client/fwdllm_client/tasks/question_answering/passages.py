"""Tokenised pairs of question and context, and the text of a span of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from tokenizers import Encoding

from fwdllm_client.data.dataset import Dataset
from fwdllm_client.data.tokens import batches, offsets_of, open_tokenizer
from fwdllm_client.tasks.question_answering.rows import Question, QuestionSource
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest

NO_SPAN = (-1, -1)
"""The span of an answer that truncation has cut off."""
NO_ANSWER = (0, 0)
"""The span of a question without an answer, if the model learns such: the first token, as usual for SQuAD 2.0."""
_CONTEXT, _QUESTION, _NEITHER = 1, 0, -1

_log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class Passages:
    """The contexts of a dataset's rows, and the answers that count as correct.

    ``tokens`` int64 ``[rows, 2]``: the first token of each row's context and the token after its last. ``characters``
    int32 ``[all tokens, 2]``: start and end of a token in the context, in characters; undefined for other tokens. With
    ``no_answer`` the span :data:`NO_ANSWER` means that there is no answer.
    """

    contexts: Sequence[str]
    answers: Sequence[Sequence[str]]
    tokens: NDArray[np.int64]
    characters: NDArray[np.int32]
    no_answer: bool = False


@dataclass(frozen=True)
class QuestionDataset(Dataset):
    """Tokenised questions; ``labels`` are the first and last token of the answer, -1 where the answer is cut off."""

    passages: Passages


def passages_of(dataset: Dataset) -> Passages:
    """Return the contexts and answers of a dataset of questions."""
    assert isinstance(dataset, QuestionDataset), "the rows of a known-answer test have no text"
    return dataset.passages


def tokenise(source: QuestionSource, tokenizer_file: Path, manifest: Manifest) -> QuestionDataset:
    """Tokenise the rows of ``source`` as pairs of question and context; truncate the context to fit ``max_tokens``.

    :raises BadInputError: the file or a row is wrong, or truncation cuts off all answers.
    """
    rows: list[_Row] = []
    contexts: dict[str, str] = {}  # stored once, because many questions share one
    tokenizer = open_tokenizer(tokenizer_file)
    for questions in batches(source.rows()):
        encoded = tokenizer.encode_batch([(each.question, each.context) for each in questions])
        for question, encoding in zip(questions, encoded, strict=True):
            context = contexts.setdefault(question.context, question.context)
            rows.append(_row(question, context, encoding, manifest))
    spans = np.array([row.span for row in rows], dtype=np.int32)
    cut = int((spans[:, 0] < 0).sum())
    if cut == len(rows):
        raise BadInputError(
            f"{source.path}: no answer lies within the first {manifest.max_tokens} tokens of question and context; "
            "raise [model] max_tokens, or shorten the contexts"
        )
    if cut:
        _log.info(
            "answers that truncation cuts off are not learnt", rows=cut, of=len(rows), max_tokens=manifest.max_tokens
        )
    return QuestionDataset(
        np.concatenate([row.ids for row in rows]),
        offsets_of(np.array([len(row.ids) for row in rows], dtype=np.int64)),
        spans,
        Passages(
            [row.context for row in rows],
            [row.answers for row in rows],
            np.array([row.tokens for row in rows], dtype=np.int64),
            np.concatenate([row.characters for row in rows]),
            manifest.no_answer,
        ),
    )


class _Row(NamedTuple):
    ids: NDArray[np.int32]
    span: tuple[int, int]
    context: str
    answers: Sequence[str]
    tokens: tuple[int, int]
    characters: NDArray[np.int32]


def _row(question: Question, context: str, encoding: Encoding, manifest: Manifest) -> _Row:
    texts = np.array([_NEITHER if each is None else each for each in encoding.sequence_ids], dtype=np.int64)
    kept = _cut(texts, manifest.max_tokens)
    own = np.flatnonzero(texts[kept] == _CONTEXT)
    first, end = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
    characters = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)[kept]
    ids = np.array(encoding.ids, dtype=np.int32)[kept]
    if not len(ids):
        ids, characters = np.array([manifest.pad_token_id], dtype=np.int32), np.zeros((1, 2), dtype=np.int32)
    if not question.answers:
        return _Row(ids, NO_ANSWER, context, [""], (first, end), characters)
    answer, start = question.answers[0], question.starts[0]
    begin = start + len(answer) - len(answer.lstrip())
    span = _span(characters[first:end], begin, start + len(answer.rstrip()))
    found = NO_SPAN if span is None else (first + span[0], first + span[1])
    return _Row(ids, found, context, question.answers, (first, end), characters)


def _cut(texts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the indices of the tokens kept; the end of the context is dropped first, then that of the question."""
    kept, excess = np.arange(len(texts)), len(texts) - most
    for text in (_CONTEXT, _QUESTION):
        own = np.flatnonzero(texts == text)
        gone = own[len(own) - min(len(own), max(0, excess)) :]
        kept, excess = np.setdiff1d(kept, gone), excess - len(gone)
    return kept[:most]


def _span(characters: NDArray[np.int32], begin: int, end: int) -> tuple[int, int] | None:
    """Return the first and last token of the characters from ``begin`` to ``end``; None if one is cut off."""
    first = int(np.searchsorted(characters[:, 1], begin, side="right"))
    last = int(np.searchsorted(characters[:, 0], end, side="left")) - 1
    return (first, last) if first <= last and characters[last, 1] >= end else None
