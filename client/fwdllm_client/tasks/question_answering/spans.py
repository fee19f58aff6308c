"""The answer to a question, from a model's scores of tokens."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.tasks.question_answering.passages import NO_ANSWER, Passages

Float32: TypeAlias = NDArray[np.float32]

MOST_TOKENS = 30
"""Longest answer in tokens, as in the usual evaluation scripts."""


def best_span(scores: Float32) -> tuple[int, int]:
    """Find the span with the largest sum of start and end score; return its first and last token.

    ``scores`` is float32 ``[T, 2]``, T ≥ 1. The span has at most :data:`MOST_TOKENS` tokens; among equal ones the
    shortest, then the earliest is chosen.
    """
    best, found = -np.inf, (0, 0)
    for longer in range(min(MOST_TOKENS, len(scores))):
        sums = scores[: len(scores) - longer, 0] + scores[longer:, 1]
        start = int(np.argmax(sums))
        if sums[start] > best:
            best, found = float(sums[start]), (start, start + longer)
    return found


def answer(passages: Passages, row: int, offset: int, scores: Float32) -> str:
    """Return the text of the best span in a row's context; "" if the model predicts that there is no answer.

    ``scores`` is float32 ``[T, 2]`` for the row's tokens; ``offset`` is the index of its first token among those of all
    rows.
    """
    first, end = passages.tokens[row].tolist()
    if first == end:  # a long question has left no room for the context
        return ""
    start, last = best_span(scores[first:end])
    if passages.no_answer and _score(scores, *NO_ANSWER) > _score(scores, first + start, first + last):
        return ""
    characters = passages.characters[offset + first :]
    return passages.contexts[row][int(characters[start, 0]) : int(characters[last, 1])]


def _score(scores: Float32, first: int, last: int) -> float:
    return float(scores[first, 0] + scores[last, 1])
