"""Thousands of TLS connections in one process: an epoll loop and no threads."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path

from benchmarks.coordinator.wire import Codec

Answered = Callable[[bytes | None], None]


class Loop:
    """Connections that wait for their peers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer = count()

    def run_until(self, done: Callable[[], bool], deadline: float = inf) -> None:
        """Serve the connections until ``done`` or until :func:`time.perf_counter` is at ``deadline``."""
        while not done() and (now := time.perf_counter()) < deadline:
            if self._timers and self._timers[0][0] <= now:
                heappop(self._timers)[2]()
                continue  # it may have been the last thing to wait for
            wake = min(deadline, self._timers[0][0] if self._timers else inf)
            for descriptor, _ in self._epoll.poll(None if wake == inf else max(0.0, wake - time.perf_counter())):
                if ready := self._ready.get(descriptor):
                    ready()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call ``function`` in some seconds."""
        heappush(self._timers, (time.perf_counter() + seconds, next(self._timer), function))

    def add(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever the descriptor can be read."""
        self._ready[descriptor] = ready
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Forget a descriptor."""
        self._epoll.unregister(descriptor)
        del self._ready[descriptor]


class Connection:
    """One client: TCP, TLS, and calls that are answered by callbacks.

    ``opened`` is called at the end of the handshake; None stands for a connection that failed.
    """

    def __init__(
        self, loop: Loop, address: tuple[str, int], context: ssl.SSLContext, codec: Codec, opened: Answered
    ) -> None:
        self._loop = loop
        self._codec = codec
        self._opened: Answered | None = opened
        self._answered: dict[int, Answered] = {}
        self.open = False
        raw = socket.create_connection(address, timeout=60)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setblocking(False)
        self._socket = context.wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False)
        loop.add(self._socket.fileno(), self.ready)
        loop.later(0.0, self.ready)  # whoever makes the connection is to have it before it is open

    def unary(self, method: str, message: bytes, answered: Answered) -> None:
        """Call ``method``; ``answered`` gets the answer, None if it failed."""
        call, head = self._codec.open(method)
        answers: list[bytes] = []

        def event(message: bytes | None) -> None:
            if message is not None:
                answers.append(message)
            else:
                answered(answers[0] if answers else None)

        self._answered[call] = event
        self._send(head + self._codec.message(call, message, last=True))

    def stream(self, method: str, answered: Answered) -> Callable[[bytes, bool], None]:
        """Begin a call of many messages; ``answered`` gets each answer, and None at the end."""
        call, head = self._codec.open(method)
        self._answered[call] = answered
        waiting = [head]

        def send(message: bytes, last: bool) -> None:
            head = waiting.pop() if waiting else b""
            self._send(head + self._codec.message(call, message, last))

        return send

    def ready(self) -> None:
        """Read from the socket, or continue the handshake."""
        try:
            if not self.open:
                self._shake_hands()
            while self.open:
                data = self._socket.recv(65536)
                if not data:
                    self._fail()
                    return
                for event in self._codec.feed(data):
                    if isinstance(event, bytes):
                        self._send(event)
                    elif answered := (
                        self._answered.pop(event.call, None)
                        if event.message is None
                        else self._answered.get(event.call)
                    ):
                        answered(event.message)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._fail()

    def close(self) -> None:
        """Hang up."""
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
        self.open = False

    def _shake_hands(self) -> None:
        self._socket.do_handshake()
        self.open = True
        if opening := self._codec.opening():
            self._send(opening)
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened(b"")

    def _send(self, data: bytes) -> None:
        # A few hundred bytes at a time: a socket's buffer has room for them unless the peer has stopped reading.
        self._socket.sendall(data)

    def _fail(self) -> None:
        self.close()
        waiting, self._answered = list(self._answered.values()), {}
        if self._opened is not None:
            waiting.append(self._opened)
            self._opened = None
        for answered in waiting:
            answered(None)


def client_context(authority: Path, protocol: str) -> ssl.SSLContext:
    """TLS that trusts ``authority`` alone; a client's certificate is loaded before each connection that shows it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.set_alpn_protocols([protocol])
    return context
