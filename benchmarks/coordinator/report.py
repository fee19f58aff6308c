"""Tables and figures from what was measured; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.coordinator.flower import CALLS, VERSION
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, rounded

_STORE = "sqlite"
"""The figures are those of the default store; the other's stand beside them."""
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Return the tables of what was measured, line by line."""
    stores: Mapping[str, Any] = results["stores"]
    header = ["", *(_NAMES[kind] for kind in stores)]
    yield from ("### Connected devices", "")
    rows = [
        [title, *(f"{found[field]:,.{digits}f}" for found in stores.values())]
        for field, title, digits in (
            ("connected_devices", "connected over mutual TLS", 0),
            ("connect_seconds", "seconds until all were", 1),
            ("handshake_cpu_ms", "coordinator's CPU ms per connection", 2),
            ("connection_kb_per_device", "coordinator's resident kB per connection", 1),
            ("rss_kb_per_device", "the same after each has checked in", 1),
            ("rss_mb_without_devices", "coordinator's resident MB without them", 0),
            ("rss_mb_at_the_end", "with them, at the end of all", 0),
            ("generator_kb_per_device", "load generator's resident kB per connection", 1),
        )
    ]
    yield from (*table(header, rows), "", "### Durable calls", "")
    header = ["", "calls a second", "scalars a second", "p50 ms", "p99 ms", "server's cores", "generator's cores"]
    rows = []
    for kind, found in stores.items():
        rows.append(_row(f"check-ins, {_NAMES[kind]}", found["check_ins"]))
        rows.append(_row(f"reports, {_NAMES[kind]}", found["scalars"]))
    rows += [_row(f"Flower {VERSION}, {call}, SQLite", found) for call, found in results["flower"].items()]
    yield from (*table(header, rows), "")
    if closing := results["closing"]:
        yield from ("### Closing a round", "")
        header = ["seconds", "latest tick of the event loop, ms", "longest commit of another, ms", "CPU s"]
        fields = (("seconds", 3), ("loop_lag_ms", 1), ("commit_ms", 1), ("cpu_seconds", 2))
        yield from (*table(header, [[_range([each[f] for each in closing], digits) for f, digits in fields]]), "")
    if starting := results["starting"]:
        yield from ("### Starting", "")
        yield from (
            *table(["seconds from the process to serving"], [[_range([each["seconds"] for each in starting], 2)]]),
            "",
        )


def all_figures(results: Mapping[str, Any]) -> list[Figure]:
    """Return the figures with their goals; the value of what was not measured is None."""
    stores: Mapping[str, Any] = results["stores"]
    peers = {call: _median(found, "calls_per_s") for call, found in results["flower"].items()}
    check_ins = _of(stores, "check_ins", "calls_per_s")
    heartbeat = peers.get(CALLS[0])
    ours = check_ins.get(_STORE)
    ratios = {call: rounded(ours / rate) for call, rate in peers.items() if ours and rate}
    closing = results["closing"]
    latencies = {
        f"{name}, {kind}": _median(found[name], "p99_ms")
        for kind, found in stores.items()
        for name in ("check_ins", "scalars")
    }
    ours_ms = [value for call, value in latencies.items() if _STORE in call and value is not None]
    sqlite = stores.get(_STORE, {})
    return [
        make_figure("connected_devices", sqlite.get("connected_devices"), "connections", 10_000, "higher"),
        make_figure("durable_checkins_per_s", check_ins.get(_STORE), "check-ins/s", 1000, "higher")
        | {"by_store": check_ins, "peer": {f"Flower {VERSION} {call}/s": rate for call, rate in peers.items()}},
        make_figure("checkins_ratio_to_flower", ratios.get(CALLS[0]), f"times its {CALLS[0]}/s", 20, "higher")
        | {"by_call": ratios, "peer": {f"Flower {VERSION} {CALLS[0]}/s": heartbeat}},
        make_figure(
            "durable_scalars_per_s", _of(stores, "scalars", "scalars_per_s").get(_STORE), "scalars/s", 5000, "higher"
        )
        | {"by_store": _of(stores, "scalars", "scalars_per_s")},
        make_figure("p99_ms", max(ours_ms, default=None), "ms", 250, "lower") | {"by_call": latencies},
        make_figure("rss_kb_per_device", rounded(sqlite.get("rss_kb_per_device")), "kB", 50, "lower"),
        make_figure(
            "close_round_s", rounded(_median(closing, "seconds")), "s for 1,000 scalars, d = 450,000", 0.5, "lower"
        ),
        make_figure(
            "start_s", rounded(_median(results["starting"], "seconds")), "s with a ledger of 10,000 rounds", 2, "lower"
        ),
        make_figure("close_round_loop_lag_ms", rounded(_median(closing, "loop_lag_ms")), "ms at most", 50, "lower"),
    ]


def _row(title: str, found: Sequence[Mapping[str, float]]) -> list[str]:
    fields = (
        ("calls_per_s", 0),
        ("scalars_per_s", 0),
        ("p50_ms", 1),
        ("p99_ms", 1),
        ("server_cores", 2),
        ("generator_cores", 2),
    )
    return [title, *(_range([each[field] for each in found if field in each], digits) for field, digits in fields)]


def _range(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    middle, least, most = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if len(values) < 2 else f"{middle} ({least}–{most})"


def _of(stores: Mapping[str, Any], name: str, field: str) -> dict[str, float | None]:
    return {kind: _median(found[name], field) for kind, found in stores.items()}


def _median(found: Sequence[Mapping[str, float]], field: str) -> float | None:
    return rounded(median(each[field] for each in found)) if found else None
