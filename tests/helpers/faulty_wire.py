"""A TCP proxy that loses, repeats, swaps, delays and cuts off the bytes that pass, and closes half of a connection.

TLS notices bytes that are lost, repeated or swapped, and ends the connection: what is tested is that nothing which was
under way is taken for done, and nothing done twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Self

_LINGER_S = 0.02
"""How long a connection whose bytes went missing still looks alive."""
_CHUNK = 1 << 16


class FaultyWire:
    """An async context manager; while it is open, what connects to ``port`` is connected to the target.

    ``rate`` is the probability of a fault for each chunk; ``faults`` counts those injected, by kind.
    """

    KINDS = ("lost bytes", "repeated bytes", "swapped bytes", "delayed bytes", "cut off", "half-closed")

    def __init__(self, target_port: int, rate: float, seed: int = 0) -> None:
        self.faults: Counter[str] = Counter()
        self._target_port = target_port
        self._rate = rate
        self._random = Random(seed)
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target_port)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, there))
                both.create_task(self._pump(back, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # the connection is over, or the test
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One direction, until it ends; raises OSError to end both."""
        while chunk := await source.read(_CHUNK):
            kind = self._fault()
            if kind == "lost bytes":
                await asyncio.sleep(_LINGER_S)
                raise ConnectionResetError
            if kind == "cut off":
                sink.write(chunk[: len(chunk) // 2])
                await sink.drain()
                raise ConnectionResetError
            if kind == "half-closed":
                sink.write(chunk)
                break
            if kind == "delayed bytes":
                await asyncio.sleep(_LINGER_S)
            if kind == "swapped bytes":
                middle = len(chunk) // 2
                chunk = chunk[middle:] + chunk[:middle]
            sink.write(chunk + chunk if kind == "repeated bytes" else chunk)
            await sink.drain()
        sink.write_eof()

    def _fault(self) -> str:
        if self._random.random() >= self._rate:
            return ""
        kind = self._random.choice(self.KINDS)
        self.faults[kind] += 1
        return kind
