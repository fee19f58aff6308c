"""The check of TOML text against a pydantic model, with messages of one line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fwdllm_common.errors import BadInputError

T = TypeVar("T", bound=BaseModel)
KeyPath = tuple[str | int, ...]


def parse_toml(text: str, model: type[T], where: str) -> T:
    """Parse ``text`` into ``model``; ``where`` names the file in messages.

    :raises BadInputError: the text is not TOML, a key is unknown or missing, or a value is out of bounds.
    """
    return validate(read_toml(text, where), model, where)


def read_toml(text: str, where: str) -> dict[str, Any]:
    """Parse ``text`` into a table.

    :raises BadInputError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{where}: not TOML: {_lower(str(error))}") from error


def validate(data: Mapping[str, Any], model: type[T], where: str, sources: Mapping[KeyPath, str] | None = None) -> T:
    """Check ``data`` against ``model``; ``sources`` names, by key, the origin of values that are not from ``where``.

    :raises BadInputError: as :func:`parse_toml`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # A misspelt key also leaves the right one missing: report the misspelling.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
        first = problems[0]
        origin = (sources or {}).get(first["loc"], where)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadInputError(f"{origin}: {_explain(first, model)}{more}") from error


def near(word: str, candidates: list[str]) -> str:
    """Return ``; did you mean "…"?`` with the candidate nearest to ``word``, or an empty text."""
    found = difflib.get_close_matches(word, candidates, n=1)
    return f'; did you mean "{found[0]}"?' if found else ""


def _explain(problem: Any, model: type[BaseModel]) -> str:
    path: KeyPath = problem["loc"]
    named = _name(path)
    if problem["type"] == "extra_forbidden":
        keys = [key for parent in _models_at(model, path[:-1]) for key in parent.model_fields]
        return f"{named} is no known key{near(str(path[-1]), keys)}"
    if problem["type"] == "missing":
        return f"{named} is missing"
    message = _lower(problem["msg"].removeprefix("Value error, ").replace("Input should", "should"))
    if isinstance(problem["input"], Mapping):  # a section whose keys contradict each other
        return f"[{'.'.join(map(str, path))}]: {message}" if path else message
    fields = [parent.model_fields.get(str(path[-1])) for parent in _models_at(model, path[:-1])]
    if any(field is not None and not field.repr for field in fields):  # a secret
        return f"{named}: {message}"
    guess = ""
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        guess = near(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return f"{named} is {_short(problem['input'])}: {message}{guess}"


def _name(path: KeyPath) -> str:
    """Return ``[rounds] count`` for a key of a table, ``preset`` for a key of the top level."""
    keys = [str(part) for part in path if part != "[key]"]
    return " ".join([f"[{'.'.join(keys[:-1])}]"] * (len(keys) > 1) + keys[-1:])


def _models_at(model: type[BaseModel], path: KeyPath) -> list[type[BaseModel]]:
    """Return the models that a table at ``path`` may be checked against."""
    found = [model]
    for part in path:
        annotations = [parent.model_fields[part].annotation for parent in found if part in parent.model_fields]
        # An index, a dictionary's key or a union's tag names no field: its model was found with its parent's.
        found = [inner for annotation in annotations for inner in _models_in(annotation)] or found
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
