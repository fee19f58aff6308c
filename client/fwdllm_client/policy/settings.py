"""The owner's settings: ``client.toml`` in the agent's folder."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwdllm_client.conditions import Rules
from fwdllm_client.policy.policy import MinBatchRows, Privacy
from fwdllm_common.errors import BadInputError

_GB = 10**9
_PRIVACY = ("min_batch_rows", "max_directions", "min_cohort", "labels")


@dataclass(frozen=True)
class Settings:
    """The settings of an agent.

    ``rules`` are the section ``[conditions]``. ``cache_limit_bytes`` is ``limit_gb`` in ``[cache]``, the disk quota of
    models and files derived from them; ``mirrors`` in it is whether models may come from another address than the
    coordinator's. ``privacy`` is the section ``[privacy]``.
    """

    rules: Rules = Rules()  # noqa: RUF009 - frozen
    cache_limit_bytes: int = 16 * _GB
    privacy: Privacy = Privacy()  # noqa: RUF009 - frozen
    mirrors: bool = True

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Load the settings, or the defaults if there is no such file.

        :raises BadInputError: the file is not TOML, or has an unknown key or a value out of bounds.
        """
        try:
            table = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise BadInputError(f"{path}: not TOML: {error}") from error
        _check_keys(table, ["conditions", "cache", "privacy"], f"{path}: ")
        rules = Rules.of(_section(table, "conditions", Rules.names(), path), f"{path}: [conditions] ")
        cache = _section(table, "cache", ["limit_gb", "mirrors"], path)
        limit_gb, mirrors = cache.get("limit_gb", cls.cache_limit_bytes / _GB), cache.get("mirrors", cls.mirrors)
        if isinstance(limit_gb, bool) or not isinstance(limit_gb, int | float) or not 0 < limit_gb < 1e9:
            raise BadInputError(f"{path}: [cache] limit_gb is {limit_gb!r}; use a number above 0")
        if not isinstance(mirrors, bool):
            raise BadInputError(f"{path}: [cache] mirrors is {mirrors!r}; use true or false")
        privacy = _privacy(_section(table, "privacy", _PRIVACY, path), f"{path}: [privacy] ")
        return cls(rules, int(limit_gb * _GB), privacy, mirrors)


def _privacy(section: Mapping[str, Any], where: str) -> Privacy:
    privacy = Privacy()
    if "min_batch_rows" in section:
        rows = _whole_number(section, "min_batch_rows", 65536, where)
        privacy = replace(privacy, min_batch_rows=MinBatchRows(rows, insisted=True))
    if "max_directions" in section:
        privacy = replace(privacy, max_directions=_whole_number(section, "max_directions", 1 << 30, where))
    if "min_cohort" in section:
        privacy = replace(privacy, min_cohort=_whole_number(section, "min_cohort", 4096, where, least=3))
    if "labels" in section:
        labels = section["labels"]
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise BadInputError(f'{where}labels is {labels!r}; use a list such as ["sport", "politics"]')
        privacy = replace(privacy, labels=frozenset(labels))
    return privacy


def _whole_number(section: Mapping[str, Any], name: str, most: int, where: str, least: int = 1) -> int:
    value = section[name]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadInputError(f"{where}{name} is {value!r}; use a whole number from {least} to {most}")
    return value


def _check_keys(table: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Check that ``table`` has only the keys ``names``; ``where`` begins the message.

    :raises BadInputError: it has another key, probably mistyped.
    """
    known = list(names)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            advice = f'did you mean "{near[0]}"?' if near else f"the keys are {', '.join(known)}"
            raise BadInputError(f"{where}{key} is not known; {advice}")


def _section(table: Mapping[str, Any], name: str, keys: Iterable[str], path: Path) -> Mapping[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise BadInputError(f"{path}: {name} is not a section; write [{name}]")
    _check_keys(section, keys, f"{path}: [{name}] ")
    return section
