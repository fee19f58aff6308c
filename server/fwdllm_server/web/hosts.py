"""Check the Host header of HTTP requests, against DNS rebinding: a foreign name that resolves to this server."""

from __future__ import annotations

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fwdllm_server.config.server_config import ServerConfig, is_loopback
from fwdllm_server.dashboard.access import asked_name


def only_by_our_names(config: ServerConfig) -> Middleware:
    """Return a middleware that answers only requests for an IP address or a configured name of this server."""
    ours = {host.lower() for host in config.certificate_hosts}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = asked_name(request).lower()
        if name in ours or is_loopback(name) or _is_address(name):
            return await handler(request)
        raise web.HTTPMisdirectedRequest(
            text="this server does not have this name; add it to [public] names in server.toml\n"
        )

    return check


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
