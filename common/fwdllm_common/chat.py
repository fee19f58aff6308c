"""How a causal language model writes conversations: its chat template and the texts of its special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fwdllm_common.errors import BadInputError

MOST_TEMPLATE = 1 << 16
"""Longest chat template, characters."""
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""The template of a model that has none: a turn a line, the assistant's with the token that ends a text."""


@dataclass(frozen=True)
class Chat:
    """A Jinja ``template`` for ``messages``, and the special tokens that it may name, such as ``eos_token``.

    :raises BadInputError: the template is too long.
    """

    template: str = DEFAULT_TEMPLATE
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.template) > MOST_TEMPLATE:
            raise BadInputError(f"the chat template has {len(self.template)} characters, more than {MOST_TEMPLATE}")

    @property
    def end(self) -> str:
        """The token that ends a text; empty if the model has none."""
        return self.special_tokens.get("eos_token", "")

    def to_json(self) -> Mapping[str, Any]:
        """Return what :meth:`from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Chat:
        """Return the chat that :meth:`to_json` has written."""
        return cls(str(value["template"]), {str(name): str(text) for name, text in value["special_tokens"].items()})
