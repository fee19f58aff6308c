"""The words around a text that make a language model's next word the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fwdllm_common.errors import BadInputError

PLACEHOLDER = "{text}"


class Encoded(Protocol):
    """What is needed of an ``Encoding`` of the tokenizers package; ``offsets`` count characters."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""
        ...

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """Where each token begins and ends; (0, 0) for one that the tokenizer adds."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A template with ``{text}`` in it, once, such as ``"{text} It was"``."""

    template: str

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count(PLACEHOLDER) != 1:
            raise BadInputError(f"a prompt must hold {PLACEHOLDER} once")

    @classmethod
    def of(cls, template: str | None) -> Prompt | None:
        """The prompt, if there is one.

        :raises BadInputError: the template does not hold ``{text}`` once.
        """
        return None if template is None else cls(template)

    def apply(self, text: str) -> str:
        """The prompt with ``text`` in it, to be tokenised as a whole, without truncation."""
        return self.template.replace(PLACEHOLDER, text)

    def cut(self, encoding: Encoded, text: str, max_tokens: int) -> list[int]:
        """Token ids of the tokenised ``apply(text)``, at most ``max_tokens``: too long a text loses its end."""
        ids = list(encoding.ids)
        excess = len(ids) - max_tokens
        if excess <= 0:
            return ids
        end = self.template.index(PLACEHOLDER) + len(text)
        # A token that reaches beyond the text belongs to what follows it.
        after = next((index for index, (_, stop) in enumerate(encoding.offsets) if stop > end), len(ids))
        return [*ids[: max(after - excess, 0)], *ids[after:]][-max_tokens:]
