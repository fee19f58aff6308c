"""Where a text is cut, from the places of its tokens alone."""

from typing import NamedTuple

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_common.prompt import Prompt


class Encoding(NamedTuple):
    ids: list[int]
    offsets: list[tuple[int, int]]


# "Say: a b c d so" with a token that the tokenizer adds in front.
TEXT = "a b c d"
ENCODING = Encoding([9, 1, 2, 3, 4, 5, 6, 7], [(0, 0), (0, 3), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 15)])


@pytest.mark.parametrize("template", ["", "It was", "{text} {text}", "{ text }", 3])
def test_a_prompt_has_one_place_for_the_text(template):
    with pytest.raises(BadInputError, match=r"must hold \{text\} once"):
        Prompt(template)


def test_braces_elsewhere_mean_nothing():
    assert Prompt("{0} {text} {").apply("{text} {x}") == "{0} {text} {x} {"


@pytest.mark.parametrize(
    ("max_tokens", "ids"),
    [
        (9, [9, 1, 2, 3, 4, 5, 6, 7]),
        (8, [9, 1, 2, 3, 4, 5, 6, 7]),
        (7, [9, 1, 2, 3, 4, 5, 7]),
        (5, [9, 1, 2, 3, 7]),
        (4, [9, 1, 2, 7]),
    ],
)
def test_a_text_loses_its_end(max_tokens, ids):
    assert Prompt("Say: {text} so").cut(ENCODING, TEXT, max_tokens) == ids


def test_a_text_at_the_end_of_the_prompt_is_cut_at_the_end():
    encoding = Encoding(ENCODING.ids[:-1], ENCODING.offsets[:-1])

    assert Prompt("Say: {text}").cut(encoding, TEXT, 5) == [9, 1, 2, 3, 4]


def test_a_token_of_text_and_prompt_is_the_prompts():
    encoding = Encoding([1, 2, 3, 4], [(0, 1), (2, 3), (4, 8), (9, 11)])

    assert Prompt("{text}ing so").cut(encoding, "a b c", 3) == [1, 3, 4]


def test_never_more_than_fits_comes_out():
    assert Prompt("Say: {text} so").cut(ENCODING, TEXT, 1) == [7]
    assert Prompt("{text}ing so").cut(Encoding([1, 2, 3], [(0, 4), (5, 6), (6, 7)]), "a", 2) == [2, 3]
