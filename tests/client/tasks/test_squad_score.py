"""The rules of SQuAD's own script, by cases whose values follow from it on paper, and by the script's own steps."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_client.tasks.question_answering.squad_score import exact_match, f1


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "expected"),
    [
        ("Denver Broncos", ["Denver Broncos"], True, 1.0),
        ("the  denver   broncos.", ["Denver Broncos"], True, 1.0),
        ("Broncos", ["Denver Broncos"], False, 2 / 3),
        ("Denver Broncos", ["Panthers", "The Broncos", "Denver Broncos!"], True, 1.0),
        ("Denver", ["Panthers", "Denver Broncos", "Denver, the Broncos of Colorado"], False, 2 / 3),
        ("Carolina", ["Denver Broncos"], False, 0.0),
        # Punctuation goes without leaving space, and before the articles: "a-b" is "ab", "the." an article.
        ("a-b", ["ab"], True, 1.0),
        ("it is the.", ["it is"], True, 1.0),
        ("Theatre and another", ["theatre and another"], True, 1.0),
        # A bag: twice the same word is found once only where it is wanted once.
        ("to be or to be", ["to be"], False, 4 / 7),
        # Nothing left but articles is nothing.
        ("the", ["a"], True, 1.0),
        ("", ["the"], True, 1.0),
        ("", ["Denver"], False, 0.0),
        ("Denver", ["the"], False, 0.0),
        # Only ASCII's punctuation counts.
        ("100 °F", ["100°F"], False, 0.0),
        ("$6½ m", ["6½ m"], True, 1.0),
        ("“Denver”", ["Denver"], False, 0.0),
    ],
)
def test_cases(prediction: str, answers: list[str], exact: bool, expected: float) -> None:
    assert exact_match(prediction, answers) is exact
    assert f1(prediction, answers) == pytest.approx(expected)


_texts = st.text(alphabet=" aAnthe.,-'b\n\t5é", max_size=12)


@given(_texts, st.lists(_texts, min_size=1, max_size=3))
def test_as_the_script_does_step_by_step(prediction: str, answers: list[str]) -> None:
    def normalised(text: str) -> str:
        lower = "".join(each for each in text.lower() if each not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())

    def score(answer: str) -> float:
        found, wanted = normalised(prediction).split(), normalised(answer).split()
        if len(found) == 0 or len(wanted) == 0:
            return int(found == wanted)
        same = sum((Counter(found) & Counter(wanted)).values())
        if same == 0:
            return 0
        precision, recall = same / len(found), same / len(wanted)
        return 2 * precision * recall / (precision + recall)

    assert exact_match(prediction, answers) == max(normalised(prediction) == normalised(each) for each in answers)
    assert f1(prediction, answers) == pytest.approx(max(map(score, answers)))
