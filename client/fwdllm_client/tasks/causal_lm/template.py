"""Chat templates, rendered as transformers renders them, in Jinja's sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fwdllm_client.tasks.causal_lm.rows import ASSISTANT, Message
from fwdllm_common.chat import Chat
from fwdllm_common.errors import BadInputError

Spans = Sequence[tuple[int, int]]
"""Where the texts to learn begin and end in a rendered conversation, characters."""


class _Generation(Extension):
    """The block ``{% generation %}``, with which some templates mark what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Parse the block as its body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """The chat template of a model, compiled.

    The conversation's date is always the same, so that the same rows have the same tokens on every day.

    :raises BadInputError: the template is not one of Jinja.
    """

    def __init__(self, chat: Chat) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _DATE.strftime}
        try:
            self._template = environment.from_string(chat.template)
        except (TemplateError, RecursionError) as error:
            raise BadInputError(f"the model's chat template is wrong ({_reason(error)}); correct it") from error
        self._tokens = dict(chat.special_tokens)

    def render(self, messages: Sequence[Message], learnt_from: int) -> tuple[str, Spans]:
        """Return the conversation as a text, and where in it the assistant speaks, from message ``learnt_from`` on.

        A turn includes what ends it, without white space after that.

        :raises BadInputError: the template fails, or writes earlier turns differently when others follow them.
        """
        text = self._rendered(messages)
        spans = []
        for index in range(learnt_from, len(messages)):
            if messages[index]["role"] != ASSISTANT:
                continue
            start = self._rendered(messages[:index], is_asking=True)
            end = text if index == len(messages) - 1 else self._rendered(messages[: index + 1])
            if not (text.startswith(end) and end.startswith(start)):
                raise BadInputError(
                    f"the model's chat template writes turn {index + 1} differently when others follow, so it cannot "
                    "be told what the assistant says there; give each row one turn of the assistant, the last"
                )
            spans.append((len(start), len(end.rstrip())))
        return text, spans

    def _rendered(self, messages: Sequence[Message], is_asking: bool = False) -> str:
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=is_asking, tools=None, documents=None, **self._tokens
            )
        # Templates are programs: besides Jinja's own errors they raise whatever Python raises in an expression.
        except Exception as error:
            raise BadInputError(f"the model's chat template does not take it ({_reason(error)})") from error


_DATE = datetime(2024, 7, 26, tzinfo=UTC)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refuse(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _to_json(
    value: Any, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes what is special in HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
