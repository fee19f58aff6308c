"""Metrics that this process counts since its start."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

REGISTRY = CollectorRegistry()
"""All metrics of ``/metrics``. A process has one coordinator."""

_PLATFORM = (ProcessCollector(registry=REGISTRY), PlatformCollector(registry=REGISTRY))
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RPC_CALLS = Counter(
    "fwdllm_rpc_calls_total",
    "Completed calls by method, gRPC status and reason of refusal (empty if not refused).",
    ("method", "status", "reason"),
    registry=REGISTRY,
)
STORE_SECONDS = Histogram(
    "fwdllm_store_seconds",
    "Seconds from a request to the store until its result is durable, waiting time included.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
LOOP_LAG_SECONDS = Histogram(
    "fwdllm_event_loop_lag_seconds",
    "Delay of timers in the coordinator's event loop, in seconds.",
    registry=REGISTRY,
    buckets=_LATENCIES,
)
SERVING = Gauge("fwdllm_serving", "1 while the health service reports SERVING, else 0.", registry=REGISTRY)
STORE_WRITABLE = Gauge("fwdllm_store_writable", "1 if the last test write reached the disk, else 0.", registry=REGISTRY)
VIEWERS = Gauge("fwdllm_dashboard_viewers", "Open dashboards.", registry=REGISTRY)

LIVE = (RPC_CALLS, STORE_SECONDS, LOOP_LAG_SECONDS, SERVING, STORE_WRITABLE, VIEWERS)
