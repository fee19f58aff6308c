"""Write the reference of all metrics in Markdown: ``python -m fwdllm_server.metrics.reference > docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Sequence

from fwdllm_server.metrics.live import LIVE
from fwdllm_server.metrics.state import DEFINITIONS

_HEAD = """\
# Metrics

The metrics of `/metrics` on the coordinator's metrics port. [monitoring.md](monitoring.md) describes the port, the
alerts and the health checks. `make metrics` writes this page. A job is shown for a day after its end. Its id is unique,
its name need not be.

"""
_TABLE = "| metric | type | labels | description |\n|---|---|---|---|\n"
_TAIL = """
The Prometheus client for Python adds metrics of the process: `process_resident_memory_bytes`,
`process_cpu_seconds_total`, `process_open_fds` and others.
"""


def reference() -> str:
    """Return the page with every metric."""
    stored = [(each.name, each.kind, each.labels, each.help) for each in DEFINITIONS]
    counted = [
        (family.name + "_total" * (family.type == "counter"), family.type, instrument._labelnames, family.documentation)
        for instrument in LIVE
        for family in instrument.describe()
    ]
    return (
        f"{_HEAD}Read from the store (a restart does not reset them):\n\n{_TABLE}{_rows(stored)}\n"
        f"Counted by the process since its start:\n\n{_TABLE}{_rows(counted)}{_TAIL}"
    )


def _rows(metrics: Sequence[tuple[str, str, tuple[str, ...], str]]) -> str:
    return "".join(
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"
        for name, kind, labels, text in metrics
    )


if __name__ == "__main__":
    print(reference(), end="")
