"""By which name a page is asked for: a page from elsewhere whose name was made to point here uses none of ours."""

from __future__ import annotations

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fwdllm_server.config.server_config import ServerConfig, is_loopback
from fwdllm_server.dashboard.access import asked_name


def only_by_our_names(config: ServerConfig) -> Middleware:
    """Answer who asks by an address or a name of the configuration's, and nobody else."""
    ours = {host.lower() for host in config.certificate_hosts}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = asked_name(request).lower()
        if name in ours or is_loopback(name) or _is_address(name):
            return await handler(request)
        raise web.HTTPMisdirectedRequest(text="not by this name; add it to [public] names in server.toml\n")

    return check


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
