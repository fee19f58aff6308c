"""Numbers that are counted as things happen, in this process since it began."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

REGISTRY = CollectorRegistry()
"""Everything that ``/metrics`` shows; a process has one coordinator."""

_PLATFORM = (ProcessCollector(registry=REGISTRY), PlatformCollector(registry=REGISTRY))
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RPC_CALLS = Counter(
    "fwdllm_rpc_calls_total",
    "Calls that have ended, by method, gRPC status and the reason of a refusal (empty for none).",
    ("method", "status", "reason"),
    registry=REGISTRY,
)
STORE_SECONDS = Histogram(
    "fwdllm_store_seconds",
    "From asking the store to its answer, which is on disk by then; waiting for others included.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
LOOP_LAG_SECONDS = Histogram(
    "fwdllm_event_loop_lag_seconds",
    "How late the coordinator's event loop wakes what asked to be woken at a time.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
SERVING = Gauge("fwdllm_serving", "1 while the health service says SERVING, else 0.", registry=REGISTRY)
STORE_WRITABLE = Gauge("fwdllm_store_writable", "1 if the last test write reached the disk, else 0.", registry=REGISTRY)
VIEWERS = Gauge("fwdllm_dashboard_viewers", "Dashboards that are open now.", registry=REGISTRY)

LIVE = (RPC_CALLS, STORE_SECONDS, LOOP_LAG_SECONDS, SERVING, STORE_WRITABLE, VIEWERS)
