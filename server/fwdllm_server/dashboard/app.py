"""The dashboard's pages and API. Every request only reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from weakref import WeakSet

from aiohttp import web
from aiohttp.typedefs import Handler

from fwdllm_common.errors import FwdllmError
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.dashboard import documents
from fwdllm_server.dashboard.access import Access, add_headers
from fwdllm_server.dashboard.events import MAX_VIEWERS, EventStream
from fwdllm_server.dashboard.profiles import plot_of, profiles
from fwdllm_server.dashboard.reading import Reading
from fwdllm_server.store import jobs
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.views.job_records import history_message
from fwdllm_server.views.version_table import as_csv

_STATIC = Path(str(files("fwdllm_server.dashboard"))) / "static"
_MAX_VERSION = (1 << 53) - 1


def dashboard_app(runtime: Runtime, token: str, problem: Callable[[], str]) -> web.Application:
    """Return the dashboard of one coordinator.

    :param token: the access token.
    :param problem: returns why the coordinator does not serve, or an empty text.
    """
    access = Access(token, _denied)
    app = web.Application(middlewares=[access.middleware, _storage_errors])
    app.on_response_prepare.append(add_headers)
    pages = _Pages(runtime, problem)
    app.cleanup_ctx.append(pages.open)
    app.add_routes(
        [
            web.get("/", _page("index.html")),
            web.get("/api/overview", pages.overview),
            web.get("/api/events", pages.events),
            web.get("/api/devices", pages.devices),
            web.get("/api/jobs/{job}/curve", pages.curve),
            web.get("/api/jobs/{job}/curve.csv", pages.curve_csv),
            web.get("/api/jobs/{job}/ledger", pages.ledger),
            web.get("/api/jobs/{job}/ledger/{version:\\d+}", pages.ledger_entry),
            web.get("/api/profiles", pages.profiles),
            web.get("/api/profiles/{name}/plot.png", pages.plot),
            web.static("/static", _STATIC),
        ]
    )
    return app


class _Pages:
    def __init__(self, runtime: Runtime, problem: Callable[[], str]) -> None:
        self._runtime = runtime
        self._problem = problem
        self._reading = Reading(runtime)
        self._viewers: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def open(self, app: web.Application) -> AsyncIterator[None]:
        # Streams do not end by themselves, and a server that stops would wait for them.
        async def end_streams(_: web.Application) -> None:
            for viewer in list(self._viewers):
                viewer.cancel()

        app.on_shutdown.append(end_streams)
        yield

    async def overview(self, _: web.Request) -> web.Response:
        config, now = self._runtime.config.check_in, self._runtime.clock()
        found = await self._reading.shared("overview", lambda connection: documents.overview(connection, config, now))
        return _json({**found, "problem": self._problem(), "now": now})

    async def events(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many viewers; close some and try again")
        viewer = asyncio.current_task()
        assert viewer is not None
        self._viewers.add(viewer)
        try:
            return await EventStream(self._reading, request.query.get("job"), self._problem).run(request)
        except ConnectionResetError:  # the viewer has disconnected
            raise web.HTTPOk from None
        finally:
            self._viewers.discard(viewer)

    async def devices(self, request: web.Request) -> web.Response:
        offset = _number(request, "offset", 0)
        limit = min(_number(request, "limit", documents.MAX_ROWS), documents.MAX_ROWS)
        config, now, job_id = self._runtime.config.check_in, self._runtime.clock(), request.query.get("job")
        found = await self._reading.shared(
            ("devices", job_id), lambda connection: documents.devices(connection, config, now, job_id)
        )
        search, state = request.query.get("search", ""), request.query.get("state", "")
        return _json(documents.page_of(found, search, state, offset, limit))

    async def ledger(self, request: web.Request) -> web.Response:
        record = await self._job(request)
        before = _number(request, "before", _MAX_VERSION)
        limit = min(_number(request, "limit", 50), documents.MAX_ROWS)
        return _json({"rounds": await self._runtime.transact(documents.ledger_page, record.id, before, limit)})

    async def curve(self, request: web.Request) -> web.Response:
        record = await self._job(request)
        return _json(await self._runtime.transact(documents.curve, record))

    async def curve_csv(self, request: web.Request) -> web.Response:
        record = await self._job(request)
        found = await self._runtime.transact(history_message, record)
        headers = {"Content-Disposition": f'attachment; filename="{record.name}.csv"', "Cache-Control": "no-store"}
        return web.Response(text=as_csv(found.versions), content_type="text/csv", headers=headers)

    async def ledger_entry(self, request: web.Request) -> web.Response:
        record = await self._job(request)
        version = min(int(request.match_info["version"][:16]), _MAX_VERSION)
        limit = min(_number(request, "limit", 100), documents.MAX_ROWS)
        found = await self._runtime.transact(
            documents.ledger_entry, record.id, version, _number(request, "offset", 0), limit
        )
        if found is None:
            raise _missing(f"job {record.name} has no version {version}")
        return _json(found)

    async def profiles(self, _: web.Request) -> web.Response:
        return _json({"profiles": await asyncio.to_thread(profiles, self._runtime.home.profiles)})

    async def plot(self, request: web.Request) -> web.StreamResponse:
        path = await asyncio.to_thread(plot_of, self._runtime.home.profiles, request.match_info["name"])
        if path is None:
            raise _missing("no such plot")
        return web.FileResponse(path)

    async def _job(self, request: web.Request) -> JobRecord:
        record = await self._runtime.transact(jobs.find, request.match_info["job"])
        if record is None:
            raise _missing("no such job")
        return record


@web.middleware
async def _storage_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with status 503 and the message if the store cannot be read."""
    try:
        return await handler(request)
    except FwdllmError as error:
        return _json({"error": str(error)}, status=503)


async def _denied(request: web.Request) -> web.StreamResponse:
    if request.path.startswith("/api/"):
        return _json({"error": "a token is needed; 'fwdllm-server dashboard' prints a link with it"}, status=401)
    response = await _page("denied.html")(request)
    response.set_status(401)
    return response


def _page(name: str) -> Handler:
    async def page(_: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread((_STATIC / name).read_text, encoding="utf-8")
        return web.Response(text=text, content_type="text/html")

    return page


def _json(found: documents.Facts, status: int = 200) -> web.Response:
    text = json.dumps(found, allow_nan=False)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _missing(message: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=json.dumps({"error": message}), content_type="application/json")


def _number(request: web.Request, key: str, default: int) -> int:
    text = request.query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_VERSION))):
        message = json.dumps({"error": f"{key} is not a number from 0 to {_MAX_VERSION}"})
        raise web.HTTPBadRequest(text=message, content_type="application/json")
    return min(int(text), _MAX_VERSION)
