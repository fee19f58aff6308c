"""Messages as JSON for programs: field names of the contract, bytes in hex, enum values as words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

Field = Any  # of a descriptor; its class depends on protobuf's implementation


def print_json(facts: object) -> None:
    """Print one JSON document on one line, at once even into a pipe."""
    print(json.dumps(facts, allow_nan=False), flush=True)


def as_dict(message: Message) -> dict[str, Any]:
    """Return every field of ``message``: None for an absent one, infinity or NaN; 64-bit numbers stay numbers."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def enum_word(field: Field, value: int) -> str:
    """Return an enum value as a word, ``running`` for JOB_STATE_RUNNING; a value of a newer version as its number."""
    values = field.enum_type.values_by_number
    if value not in values:
        return str(value)  # of a newer coordinator
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return str(values[value].name).removeprefix(prefix).lower()


def _field(message: Message, field: Field) -> Any:
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return dict(value)  # the contract has maps of texts only
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):  # repeated, in all versions of protobuf
        return [_plain(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _plain(field, value)


def _plain(field: Field, value: Any) -> Any:
    if isinstance(value, Message):
        return as_dict(value)
    if isinstance(value, bytes):
        return value.hex()
    if field.enum_type is not None:
        return enum_word(field, value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
