"""The answer that a model's scores of tokens amount to."""

from __future__ import annotations

import numpy as np

from fwdllm_client.data.passages import NO_ANSWER, Passages
from fwdllm_client.engine.stages import Float32

MOST_TOKENS = 30
"""Longest answer, as in the usual scripts."""


def best_span(scores: Float32) -> tuple[int, int]:
    """First and last token of the span with the largest sum of its start's and its end's score, ``[T, 2]``, T ≥ 1.

    It has at most :data:`MOST_TOKENS` tokens; of equal ones the shorter, and of these the earlier.
    """
    best, found = -np.inf, (0, 0)
    for longer in range(min(MOST_TOKENS, len(scores))):
        sums = scores[: len(scores) - longer, 0] + scores[longer:, 1]
        start = int(np.argmax(sums))
        if sums[start] > best:
            best, found = float(sums[start]), (start, start + longer)
    return found


def answer(passages: Passages, row: int, offset: int, scores: Float32) -> str:
    """The part of a row's context with the best span; ``scores`` ``[T, 2]`` of its tokens, ``offset`` its first one's
    place among those of all rows. Nothing where the model says that there is no answer, if it may.
    """
    first, end = passages.tokens[row].tolist()
    if first == end:  # a long question has left no room for it
        return ""
    start, last = best_span(scores[first:end])
    if passages.no_answer and _score(scores, *NO_ANSWER) > _score(scores, first + start, first + last):
        return ""
    characters = passages.characters[offset + first :]
    return passages.contexts[row][int(characters[start, 0]) : int(characters[last, 1])]


def _score(scores: Float32, first: int, last: int) -> float:
    return float(scores[first, 0] + scores[last, 1])
