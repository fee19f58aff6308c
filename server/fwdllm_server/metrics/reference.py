"""The reference of all metrics, as Markdown: ``python -m fwdllm_server.metrics.reference > docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Sequence

from fwdllm_server.metrics.live import LIVE
from fwdllm_server.metrics.state import DEFINITIONS

_HEAD = """\
# Metrics

What `/metrics` on the coordinator's metrics port shows; [monitoring.md](monitoring.md) has the port, the alerts and the
health checks. This page is written by `make metrics`. A job is shown for a day after its end; its name need not be
unique, its id is.

"""
_TABLE = "| metric | type | labels | what it is |\n|---|---|---|---|\n"
_TAIL = """
Beside them are those of the Prometheus client for Python: `process_resident_memory_bytes`, `process_cpu_seconds_total`,
`process_open_fds` and others of the process.
"""


def reference() -> str:
    """The page, every metric in it."""
    stored = [(each.name, each.kind, each.labels, each.help) for each in DEFINITIONS]
    counted = [
        (family.name + "_total" * (family.type == "counter"), family.type, instrument._labelnames, family.documentation)
        for instrument in LIVE
        for family in instrument.describe()
    ]
    return (
        f"{_HEAD}Read from the store, so that they survive a restart:\n\n{_TABLE}{_rows(stored)}\n"
        f"Counted by the process since it began:\n\n{_TABLE}{_rows(counted)}{_TAIL}"
    )


def _rows(metrics: Sequence[tuple[str, str, tuple[str, ...], str]]) -> str:
    return "".join(
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"
        for name, kind, labels, text in metrics
    )


if __name__ == "__main__":
    print(reference(), end="")
