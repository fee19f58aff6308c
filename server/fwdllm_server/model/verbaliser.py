"""The verbaliser: a decoder's classification head that starts as the output rows of the labels' words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import nn

from fwdllm_common.errors import BadInputError
from fwdllm_common.prompt import PLACEHOLDER, Prompt
from fwdllm_server.model.architecture import head_name
from fwdllm_server.model.load import TokenizerFile, has_new_head, load_word_rows

_DECODERS_HEAD = "score"
# Any text will do: what is asked is how the tokenizer goes on after it.
_TEXT = "x"


@dataclass(frozen=True)
class Prompting:
    """The prompt around each text and the ``words`` that answer it, one for each label.

    Either may be absent: without words the head starts as it otherwise would; without a prompt they follow the text.
    """

    prompt: Prompt | None
    words: Sequence[str] | None

    def prepare(self, base: nn.Module, source: str, tokenizer_file: TokenizerFile, max_tokens: int) -> None:
        """Make the head of ``base`` the language model's rows of the words' first tokens, if there are words.

        The classifier's logits at the end of the prompt are then the language model's for these tokens.

        :raises BadInputError: prompt and words do not suit the model, its tokenizer or ``max_tokens``.
        """
        if self.prompt is None and self.words is None:
            return
        prompt = self.prompt or Prompt(PLACEHOLDER)
        if head_name(base) != _DECODERS_HEAD:
            raise BadInputError(f"a prompt or verbaliser needs a decoder, which {type(base).__name__} is not")
        check_prompt(tokenizer_file, prompt, max_tokens)
        if self.words is None:
            return
        if not has_new_head(base):
            raise BadInputError(f"{source!r} is a classifier already; leave out the verbaliser")
        tokens = first_tokens(tokenizer_file, prompt, self.words)
        with torch.no_grad():
            base.get_parameter(f"{_DECODERS_HEAD}.weight").copy_(load_word_rows(source)[tokens])


def check_prompt(tokenizer_file: TokenizerFile, prompt: Prompt, max_tokens: int) -> None:
    """Check that a word can follow the prompt with a text in it.

    :raises BadInputError: the prompt leaves no room for a text, or a special token follows it.
    """
    tokenizer = _tokenizer(tokenizer_file)
    size = len(tokenizer.encode(prompt.apply("")).ids)
    if size >= max_tokens:
        raise BadInputError(f"the prompt has {size} tokens, which leaves a text no room; raise max_tokens")
    encoding = tokenizer.encode(prompt.apply(_TEXT))
    if encoding.special_tokens_mask[-1] or encoding.ids[-1] == tokenizer_file.pad_token_id:
        token = tokenizer.id_to_token(encoding.ids[-1])
        raise BadInputError(f"prompt and text end with the special token {token!r}, after which no word can follow")


def first_tokens(tokenizer_file: TokenizerFile, prompt: Prompt, words: Sequence[str]) -> list[int]:
    """Return the first token of each word where it follows the prompt, after a space unless one is there.

    :raises BadInputError: two words begin alike, or the tokenizer joins a word with the prompt's end.
    """
    tokenizer = _tokenizer(tokenizer_file)
    start = prompt.apply(_TEXT)
    before = tokenizer.encode(start).ids
    begins: dict[int, str] = {}
    for word in words:
        space = "" if start[-1].isspace() or word[0].isspace() else " "
        ids = tokenizer.encode(f"{start}{space}{word}").ids
        if ids[: len(before)] != before or len(ids) == len(before):
            raise BadInputError(
                f"the word {word!r} has no token of its own after the prompt; let neither end with a space"
            )
        token = ids[len(before)]
        if token in begins:
            raise BadInputError(
                f"the words {begins[token]!r} and {word!r} begin with the same token, "
                f"{tokenizer.id_to_token(token)!r}; choose words that differ there"
            )
        begins[token] = word
    return list(begins)


def _tokenizer(file: TokenizerFile) -> Tokenizer:
    return Tokenizer.from_str(file.json.decode())
