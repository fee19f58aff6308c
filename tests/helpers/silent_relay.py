"""A TCP relay that goes silent: connections stay open and nothing passes, as where a phone leaves its network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Self


class SilentRelay:
    """A context manager; what connects to ``port`` is connected to the target, until :meth:`go_silent`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._server, *self._sockets):
            with suppress(OSError):  # it is over already
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def go_silent(self) -> None:
        """From now on swallow what comes."""
        self._silent.set()

    def _accept(self) -> None:
        while True:
            try:
                here = self._server.accept()[0]
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._target_port))
            self._sockets += [here, there]
            self._start(self._pump, here, there)
            self._start(self._pump, there, here)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if not self._silent.is_set():
                    sink.sendall(data)
        except OSError:
            return

    def _start(self, target: object, *arguments: socket.socket) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]


def hurried(options: Sequence[tuple[str, int]], times: int = 200) -> tuple[tuple[str, int], ...]:
    """Channel options whose milliseconds pass so many times as fast."""
    return tuple((name, value // times if name.endswith("_ms") else value) for name, value in options)
