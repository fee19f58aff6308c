"""Write tables as TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


def to_toml(tables: Mapping[str, Any]) -> str:
    """Return TOML that parses to ``tables``: texts, numbers, truth values, lists of these, and tables of all that."""
    return "\n".join(_lines(tables)).strip() + "\n"


def _lines(tables: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in tables.items():
        if not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in tables.items():
        if isinstance(value, Mapping):
            if not value or any(not isinstance(each, Mapping) for each in value.values()):
                yield f"\n[{'.'.join(map(_key, (*path, key)))}]"
            yield from _lines(value, (*path, key))


def _value(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)  # of all else JSON's form is TOML's too


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
