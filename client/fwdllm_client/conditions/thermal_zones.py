"""Linux' thermal zones: temperatures compared with the zones' own trip points."""

from __future__ import annotations

from pathlib import Path

from fwdllm_client.conditions.conditions import Thermal
from fwdllm_client.conditions.files import names_in, number_in, text_of

_LIMITS = {"passive": 85.0, "hot": 95.0, "critical": 105.0}
"""Limits in °C of a zone without trip points: those of most processors."""
_BELOW_CRITICAL = 20.0
"""A zone with only a critical trip point counts as throttled this many °C below it."""
_LIGHT_BELOW = 10.0
_COLDEST_LIMIT = 50.0
"""Trip points below this many °C are ignored: some boards have zones that guard against cold."""


def thermal_state(folder: Path) -> Thermal | None:
    """Return the worst state of the zones in ``folder``, each by its own limits; None if no zone can be read."""
    zones = [folder / name for name in names_in(folder) or () if name.startswith("thermal_zone")]
    return max((state for zone in zones if (state := _state(zone)) is not None), default=None)


def _state(zone: Path) -> Thermal | None:
    found = number_in(zone / "temp")
    if found is None or not 0 < (celsius := found / 1000) < 200:
        return None
    limits = _limits(zone)
    if celsius >= limits["critical"]:
        return Thermal.CRITICAL
    if celsius >= limits["hot"]:
        return Thermal.SEVERE
    if celsius >= limits["passive"]:
        return Thermal.MODERATE
    return Thermal.LIGHT if celsius >= limits["passive"] - _LIGHT_BELOW else Thermal.NONE


def _limits(zone: Path) -> dict[str, float]:
    """Return the lowest trip points in °C at which the zone is throttled (passive), hot and critical."""
    named: dict[str, float] = {}
    for name in names_in(zone) or ():
        if name.startswith("trip_point_") and name.endswith("_type"):
            kind, limit = text_of(zone / name), number_in(zone / f"{name.removesuffix('_type')}_temp")
            if kind in _LIMITS and limit is not None and limit / 1000 >= _COLDEST_LIMIT:
                named[kind] = min(limit / 1000, named.get(kind, limit / 1000))
    if not named:
        return _LIMITS
    critical = named.get("critical", float("inf"))
    hot = named.get("hot", critical)
    return {"critical": critical, "hot": hot, "passive": named.get("passive", hot - _BELOW_CRITICAL)}
