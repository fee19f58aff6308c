"""Messages of any type of the contract, valid and not, as hypothesis draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Drawn: TypeAlias = dict[str, Any]
"""A message as its fields' values by name; only those that are set."""

_DEEPEST = 3
LARGE: Mapping[Any, Any] = {"(a long text)": "x" * 200_000, "(odd text)": "💥" * 2000, b"(many bytes)": bytes(200_000)}
"""Values that are drawn by a name, so that a failure can be read."""
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_ODD = ("", "\0", "../../etc/passwd", "a\nb\x1b[31m", "(odd text)", "(a long text)")


@dataclass(frozen=True)
class Words:
    """What strings and bytes are often: names that the server knows. A name may stand for one that is known later."""

    texts: Sequence[str]
    bytes: Sequence[bytes]


def messages(kind: Descriptor, words: Words, depth: int = 0) -> st.SearchStrategy[Drawn]:
    """Messages of a type: any fields, each near a bound, far beyond it, known to the server or random."""
    fields = {field.name: _values(field, words, depth) for field in kind.fields}
    return st.fixed_dictionaries({}, optional=fields)


def mutations() -> st.SearchStrategy[list[tuple[str, float, int]]]:
    """Changes of bytes for :func:`mutated`; mostly none."""
    one = st.tuples(st.sampled_from(["set", "cut", "insert", "end"]), st.floats(0, 1), st.integers(0, 255))
    return st.one_of(st.just([]), st.lists(one, min_size=1, max_size=4))


def mutated(data: bytes, changes: Sequence[tuple[str, float, int]]) -> bytes:
    """``data`` with bytes set, cut out, inserted, or cut off at the end."""
    for kind, where, value in changes:
        at = int(where * len(data))
        if kind == "set":
            data = data[:at] + bytes([value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + value :]
        elif kind == "insert":
            data = data[:at] + bytes([value]) * (1 + value // 16) + data[at:]
        else:
            data = data[:at]
    return data


def built(kind: Descriptor, drawn: Drawn, known: Callable[[Any], Any]) -> Message:
    """The message of what was drawn; ``known`` puts a text or bytes in the place of what stands for it."""
    message = GetMessageClass(kind)()
    for name, value in drawn.items():
        field = kind.fields_by_name[name]
        if field.message_type and field.message_type.GetOptions().map_entry:
            for entry in [built(field.message_type, item, known) for item in value]:
                if field.message_type.fields_by_name["value"].message_type:
                    getattr(message, name)[entry.key].CopyFrom(entry.value)
                else:
                    getattr(message, name)[entry.key] = entry.value
        elif field.is_repeated:
            items = [built(field.message_type, item, known) if field.message_type else known(item) for item in value]
            getattr(message, name).extend(items)
        elif field.message_type:
            getattr(message, name).CopyFrom(built(field.message_type, value, known))
        else:
            setattr(message, name, known(value))
    return message


def _values(field: FieldDescriptor, words: Words, depth: int) -> st.SearchStrategy[Any]:
    one = _value(field, words, depth)
    if not field.is_repeated:
        return one
    if depth >= _DEEPEST:
        return st.just([])
    many = st.tuples(one, st.sampled_from([10, 5000])).map(lambda drawn: [drawn[0]] * drawn[1])
    return st.one_of(st.lists(one, max_size=4), many) if field.message_type is None else st.lists(one, max_size=4)


def _value(field: FieldDescriptor, words: Words, depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type, words, depth + 1) if depth < _DEEPEST else st.just({})
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.one_of(st.floats(-2, 2, width=32), st.floats(width=32))
    if kind in _INTEGERS:
        least, most = _INTEGERS[kind]
        return st.one_of(st.integers(0, 4), st.sampled_from([least, 2**31 - 1, most]), st.integers(least, most))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.sampled_from([*words.bytes, b"", b"(many bytes)"]), st.binary(max_size=64))
    return st.one_of(st.sampled_from(words.texts), st.sampled_from([*words.texts, *_ODD]), st.text(max_size=40))
