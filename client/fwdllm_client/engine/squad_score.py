"""How good an answer is by the rules of SQuAD's evaluation script (Rajpurkar et al. 2016): exact match and F1.

Both look at the words alone: in lower case, without punctuation, then without articles, whatever space is between them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the words are those of one of the answers."""
    return _words(prediction) in map(_words, answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of the bag of words, against the answer where it is largest, 0 to 1.

    Where either has no words it is 1 if neither has, as in the script of SQuAD 2.0.
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
