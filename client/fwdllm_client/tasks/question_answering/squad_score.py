"""Scores of an answer by SQuAD's evaluation script (Rajpurkar et al. 2016): exact match and F1.

Both compare words in lower case, without punctuation and then without articles, regardless of white space.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether the words equal those of one of the answers."""
    return _words(prediction) in map(_words, answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Compute F1 over the bag of words against the best matching answer, 0 to 1.

    F1 is the harmonic mean of precision and recall. If either text has no words it is 1 if neither has, else 0, as in
    the script of SQuAD 2.0.
    """
    found = _words(prediction)
    return max(_f1(found, _words(answer)) for answer in answers)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
