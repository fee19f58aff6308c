"""Listen on HTTP ports. They are bound before the coordinator starts, so that a port in use is reported at once."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from fwdllm_server.rpc.grpc_server import binding_error

_GRACE_S = 2.0


@asynccontextmanager
async def listening(
    app: web.Application, key: str, address: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Answer HTTP requests (HTTPS with ``tls``) while the block runs. Yield the bound address, host:port.

    :param key: the key of ``address`` in the configuration's ``[listen]``.
    :raises BusyError: the port is in use.
    :raises BadInputError: the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    # No page reads request bodies, so that none is decompressed.
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_GRACE_S, handler_cancellation=True, auto_decompress=False
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise binding_error(key, address) from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
