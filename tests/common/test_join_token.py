import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError
from fwdllm_common.join_token import JoinToken

TOKEN = JoinToken("fed.example.org:7443", "ab" * 32, "s3cret")
words = st.text(min_size=1, max_size=30)


def encoded(value):
    return "fwdllm1-" + base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(st.builds(JoinToken, words, words, words))
def test_a_token_makes_the_round_trip(token):
    assert JoinToken.decode(token.encode()) == token


@given(st.builds(JoinToken, words, words, words))
def test_a_token_is_one_word_of_printable_ascii(token):
    assert all(33 <= ord(character) < 127 for character in token.encode())


@pytest.mark.parametrize("length", range(len(TOKEN.encode())))
def test_a_cut_token_is_refused(length):
    with pytest.raises(BadInputError, match="not a whole join token"):
        JoinToken.decode(TOKEN.encode()[:length])


@pytest.mark.parametrize(
    "value",
    [
        {"address": "a:1", "ca_sha256": "b"},
        {"address": "a:1", "ca_sha256": "b", "secret": "c", "more": "d"},
        {"address": "a:1", "ca_sha256": "b", "secret": ""},
        {"address": "a:1", "ca_sha256": "b", "secret": 5},
        ["a:1", "b", "c"],
        "abc",
        None,
    ],
    ids=str,
)
def test_what_is_not_a_token_inside_is_refused(value):
    with pytest.raises(BadInputError, match="not a whole join token"):
        JoinToken.decode(encoded(value))


@pytest.mark.parametrize(
    "text", ["", "fwdllm1-", "fwdllm2-e30", TOKEN.encode()[8:], "fwdllm1-ü", "fwdllm1-=", "x" * 99]
)
def test_what_is_not_a_token_outside_is_refused(text):
    with pytest.raises(BadInputError, match="copy the whole line"):
        JoinToken.decode(text)
