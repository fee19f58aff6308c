"""A TCP proxy that counts what passes, as the device's data plan would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, fields
from typing import Self

HEADER_BYTES = 52
"""Of a segment: IPv4 and TCP with timestamps; 20 more where the network speaks IPv6."""
_CHUNK = 1 << 16
_SEGMENTS_AT = 136  # in Linux' struct tcp_info: tcpi_segs_out and tcpi_segs_in


@dataclass
class Traffic:
    """Between device and proxy: bytes of TLS, TCP segments both ways (bare acknowledgements too), connections made."""

    sent: int = 0
    received: int = 0
    segments: int = 0
    connections: int = 0

    @property
    def bytes_on_the_network(self) -> int:
        """Both ways, with the headers of TCP and IP."""
        return self.sent + self.received + HEADER_BYTES * self.segments

    def since(self, before: Traffic) -> Traffic:
        """Return what has passed since ``before``."""
        return Traffic(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))


class CountingProxy:
    """A context manager; while it is open, 127.0.0.1:``port`` leads to ``target``, host and port.

    A connection on which nothing has passed for ``idle_s`` seconds is closed, as a coordinator does after ten minutes.
    """

    def __init__(self, target: tuple[str, int], idle_s: float = float("inf")) -> None:
        self._target = target
        self._idle_s = idle_s
        self._counted = Traffic()
        self._open: set[socket.socket] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def traffic(self) -> Traffic:
        """So far."""
        return asyncio.run_coroutine_threadsafe(self._now(), self._loop).result(10)

    async def _now(self) -> Traffic:
        counted = self._counted
        segments = counted.segments + sum(map(_segments, self._open))
        return Traffic(counted.sent, counted.received, segments, counted.connections)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        connection: socket.socket = to_device.get_extra_info("socket")
        self._counted.connections += 1
        self._open.add(connection)
        # asyncio's own callback cannot bear a connection that is cancelled.
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._pass_on(device, to_device)
        self._counted.segments += _segments(connection)
        self._open.discard(connection)
        to_device.close()

    async def _pass_on(self, device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        """Until either side closes, or both are silent for too long."""
        coordinator, to_coordinator = await asyncio.open_connection(*self._target)
        passed = asyncio.Event()
        pumps = [
            asyncio.ensure_future(self._pump(device, to_coordinator, "sent", passed)),
            asyncio.ensure_future(self._pump(coordinator, to_device, "received", passed)),
            asyncio.ensure_future(self._silence(passed)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            to_coordinator.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, passed: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                setattr(self._counted, way, getattr(self._counted, way) + len(data))
                passed.set()
                writer.write(data)
                await writer.drain()

    async def _silence(self, passed: asyncio.Event) -> None:
        """Wait until nothing has passed for long enough."""
        with contextlib.suppress(TimeoutError):
            while True:
                passed.clear()
                await asyncio.wait_for(passed.wait(), None if self._idle_s == float("inf") else self._idle_s)


def _segments(connection: socket.socket) -> int:
    """TCP segments that have been sent and received on this connection."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS_AT + 8)
    out, received = struct.unpack_from("=II", info, _SEGMENTS_AT)
    return int(out + received)
