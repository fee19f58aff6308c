"""The metrics port: ``/metrics`` for Prometheus, and ``/healthz`` for health checks over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from fwdllm_common.errors import StorageError
from fwdllm_server.coordinator.health import Health, stalled
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.metrics.live import REGISTRY
from fwdllm_server.metrics.state import StateCollector, read
from fwdllm_server.web.hosts import only_by_our_names


def metrics_app(runtime: Runtime, health: Health) -> web.Application:
    """Return the application of the metrics port."""
    state = StateCollector()

    async def metrics(request: web.Request) -> web.Response:
        # A store that cannot be read must not hide the metrics in memory.
        state.families = []
        with suppress(StorageError):
            if health.store_works:
                state.families = await runtime.transact(read, runtime.config.check_in, runtime.clock())
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        if problem := health.problem:
            return web.Response(text=f"{problem}\n", status=503)
        lines = ["serving", *(f"job {name} waits: {why}" for name, why in await stalled(runtime))]
        return web.Response(text="".join(f"{line}\n" for line in lines))

    async def registered(_: web.Application) -> AsyncIterator[None]:
        REGISTRY.register(state)
        yield
        REGISTRY.unregister(state)

    app = web.Application(middlewares=[only_by_our_names(runtime.config)])
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    app.cleanup_ctx.append(registered)
    return app
