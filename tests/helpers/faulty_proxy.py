"""A gRPC proxy between one device and its coordinator that drops, repeats, swaps, delays and cuts off messages.

It ends TLS on both sides, with a certificate of the coordinator's own authority towards the device and the device's own
identity towards the coordinator, so it can lose a single acknowledgement, which no proxy of bytes could.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import grpc
import grpc.aio

from fwdllm_client.connection.home import ClientHome
from fwdllm_server.config.home import ServerHome
from fwdllm_server.security.ca import CertificateAuthority

_DELAY_S = 0.02


class FaultyProxy:
    """A context manager; while it is open, the agent whose home is ``home`` talks through it.

    ``rate`` is the probability of a fault for each message; ``faults`` counts those injected, by kind. While
    ``lose_reports`` is set, reports do not arrive: they are kept in ``lost``, and ``report_lost`` is set. ``passed``
    are the reports that did arrive.
    """

    def __init__(self, home: Path, server_folder: Path, rate: float, seed: int = 0) -> None:
        self.faults: Counter[str] = Counter()
        self.lose_reports = False
        self.report_lost = threading.Event()
        self.lost: list[bytes] = []
        self.passed: list[bytes] = []
        self._home = home
        self._authority = _authority(server_folder)
        self._rate = rate
        self._random = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        identity = ClientHome(self._home).load_identity()
        upstream = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
        options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100))
        self._channel = grpc.aio.secure_channel(identity.device_address, upstream, options)
        key, chain = self._authority.issue_server(["localhost"], time.time())
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Everything(self),))
        port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
        await self._server.start()
        file = self._home / "identity.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"device_address": f"localhost:{port}"}))

    async def _stop(self) -> None:
        await self._server.stop(None)
        await self._channel.close()

    async def forward(
        self, method: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        """Pass one call on, with faults."""
        is_report = method.endswith("/Report")
        passed_on: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = passed_on(self._requests(requests, is_report), wait_for_ready=True)
        try:
            async for answer in call:
                if self._fault("lost answer"):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy lost an answer")
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            call.cancel()  # else it holds one of the 64 that the coordinator allows a connection

    async def _requests(self, requests: AsyncIterator[bytes], is_report: bool) -> AsyncIterator[bytes]:
        held: bytes | None = None
        async for request in requests:
            if self._fault("delay"):
                await asyncio.sleep(_DELAY_S)
            if is_report and self.lose_reports:
                self.lost.append(request)
                self.report_lost.set()
                continue
            if is_report and self._fault("lost request"):
                continue
            if is_report and held is None and self._fault("reorder"):
                held = request
                continue
            if is_report:
                self.passed.append(request)
            yield request
            if is_report and self._fault("duplicate"):
                yield request
            if held is not None:
                yield held
                held = None
            if is_report and self._fault("half-close"):
                return
        if held is not None:
            yield held

    def _fault(self, kind: str) -> bool:
        if self._random.random() >= self._rate:
            return False
        self.faults[kind] += 1
        return True


class _Everything(grpc.GenericRpcHandler):
    """Every method of every service; on the wire, a unary call is a stream of one message."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy = proxy

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method

        async def behaviour(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
        ) -> AsyncIterator[bytes]:
            async for answer in self._proxy.forward(method, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(behaviour)


def _authority(server_folder: Path) -> CertificateAuthority:
    home = ServerHome.open(server_folder)
    return CertificateAuthority.load(home.ca_certificate, home.ca_key)
