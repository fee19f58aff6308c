"""Prompt templates, which turn a text into one whose next word is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fwdllm_common.errors import BadInputError

PLACEHOLDER = "{text}"


class Encoded(Protocol):
    """The part of the tokenizers package's ``Encoding`` that a prompt reads."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""
        ...

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """Start and end of each token in characters; (0, 0) for a token that the tokenizer adds."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A template that contains ``{text}`` exactly once, such as ``"{text} It was"``."""

    template: str

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count(PLACEHOLDER) != 1:
            raise BadInputError(f"a prompt must hold {PLACEHOLDER} once")

    @classmethod
    def of(cls, template: str | None) -> Prompt | None:
        """Return the prompt with this template, or None for None.

        :raises BadInputError: the template does not contain ``{text}`` exactly once.
        """
        return None if template is None else cls(template)

    def apply(self, text: str) -> str:
        """Return the prompt with ``text`` in it, to be tokenised as a whole, without truncation."""
        return self.template.replace(PLACEHOLDER, text)

    def cut(self, encoding: Encoded, text: str, max_tokens: int) -> list[int]:
        """Return at most ``max_tokens`` token ids of the tokenised ``apply(text)``; a longer text loses its end."""
        ids = list(encoding.ids)
        excess = len(ids) - max_tokens
        if excess <= 0:
            return ids
        end = self.template.index(PLACEHOLDER) + len(text)
        # A token that extends beyond the text belongs to the part that follows it.
        after = next((index for index, (_, stop) in enumerate(encoding.offsets) if stop > end), len(ids))
        return [*ids[: max(after - excess, 0)], *ids[after:]][-max_tokens:]
