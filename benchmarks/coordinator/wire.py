"""gRPC and HTTP/1.1 as bytes: the least that a client of either must do, so that the load costs little of the machine.

A :class:`Codec` turns a call into bytes and the peer's bytes into messages; :mod:`benchmarks.coordinator.connections`
moves the bytes. HTTP/2 is RFC 9113 without what such a client can leave out: texts are not Huffman-coded, and as the
messages are small and few are under way, no window of the peer is ever exhausted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 1 << 30
_INITIAL_WINDOW_SIZE = 4


class Event(NamedTuple):
    """Something on a call: a message, or its end (``message`` is None). A call that ends without a message failed."""

    call: int
    message: bytes | None


class Codec(Protocol):
    """One connection's protocol, after TLS."""

    protocol: str
    """As ALPN names it."""

    def opening(self) -> bytes:
        """Return the bytes that a client sends first."""

    def open(self, method: str) -> tuple[int, bytes]:
        """Begin a call: its number, and the bytes to send before its first message."""

    def message(self, call: int, message: bytes, last: bool) -> bytes:
        """Encode one message of a call."""

    def feed(self, data: bytes) -> Iterator[Event | bytes]:
        """Decode the peer's bytes: yield events, and bytes to send back at once.

        :raises ConnectionError: the peer ends the connection.
        """


class Grpc:
    """gRPC over HTTP/2."""

    protocol = "h2"

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode()
        self._next = 1
        self._buffer = bytearray()
        self._bodies: dict[int, bytearray] = {}

    def opening(self) -> bytes:
        """Return the preface, and flow-control windows so large that they never fill."""
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW.to_bytes(4, "big")
        return _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, _WINDOW.to_bytes(4, "big"))

    def open(self, method: str) -> tuple[int, bytes]:
        """Begin a call: return its stream id and the HEADERS frame."""
        call = self._next
        self._next += 2
        self._bodies[call] = bytearray()
        headers = _headers(self._authority, method.encode(), known=call > 1)
        return call, _frame(_HEADERS, _END_HEADERS, call, headers)

    def message(self, call: int, message: bytes, last: bool) -> bytes:
        """Return a DATA frame with one length-prefixed message."""
        body = b"\0" + len(message).to_bytes(4, "big") + message
        return _frame(_DATA, _END_STREAM if last else 0, call, body)

    def feed(self, data: bytes) -> Iterator[Event | bytes]:
        """Decode frames: yield messages, ends of calls, and acknowledgements to send back."""
        self._buffer += data
        while len(self._buffer) >= 9:
            end = 9 + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < end:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            call = int.from_bytes(self._buffer[5:9], "big")
            payload = bytes(self._buffer[9:end])
            del self._buffer[:end]
            yield from self._frame(kind, flags, call, payload)

    def _frame(self, kind: int, flags: int, call: int, payload: bytes) -> Iterator[Event | bytes]:
        if kind == _DATA:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            body = self._bodies[call]
            body += payload
            while len(body) >= 5 and len(body) >= (end := 5 + int.from_bytes(body[1:5], "big")):
                yield Event(call, bytes(body[5:end]))
                del body[:end]
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            yield _frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind == _GOAWAY:
            raise ConnectionError(payload[8:].decode(errors="replace") or "the server said goodbye")
        ended = kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM)
        if ended and self._bodies.pop(call, None) is not None:
            yield Event(call, None)


class Http:
    """HTTP/1.1: one call at a time, its method a path; ``headers`` are lines that every request has."""

    protocol = "http/1.1"

    def __init__(self, authority: str, headers: str = "") -> None:
        self._authority = authority
        self._headers = headers
        self._call = 0
        self._method = ""
        self._buffer = bytearray()

    def opening(self) -> bytes:
        """Return nothing: a connection begins with its first request."""
        return b""

    def open(self, method: str) -> tuple[int, bytes]:
        """Begin the next call, which sends nothing before its message."""
        self._call += 1
        self._method = method
        return self._call, b""

    def message(self, call: int, message: bytes, last: bool) -> bytes:  # noqa: ARG002 - there is one call, of one message
        """Return the whole request: its head and the message as its body."""
        head = (
            f"POST {self._method} HTTP/1.1\r\nhost: {self._authority}\r\ncontent-type: application/protobuf\r\n"
            f"accept: application/protobuf\r\ncontent-length: {len(message)}\r\n{self._headers}\r\n"
        )
        return head.encode() + message

    def feed(self, data: bytes) -> Iterator[Event | bytes]:
        """Decode a response once it is whole: yield its body if the status is 200, then the end of the call."""
        self._buffer += data
        head, found, _ = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        end = len(head) + len(found) + (lengths[0] if lengths else 0)
        if len(self._buffer) < end:
            return
        body = bytes(self._buffer[len(head) + len(found) : end])
        del self._buffer[:end]
        if lines[0].split()[1] == b"200":
            yield Event(self._call, body)
        yield Event(self._call, None)


def _frame(kind: int, flags: int, call: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + call.to_bytes(4, "big") + payload


def _headers(authority: bytes, path: bytes, known: bool) -> bytes:
    """Encode a request's header block (RFC 7541).

    Headers that are always the same are put into the peer's table with the first request, as gRPC's own clients do,
    and are one octet each from then on.
    """
    # Indexed: ":method: POST" and ":scheme: https"; a literal that is not: the path.
    start = b"\x83\x87\x04" + _text(path)
    if known:
        return start + b"\xc2\xc1\xc0\xbf\xbe"  # entries 66 to 62, the oldest first
    return (
        start
        + (b"\x41" + _text(authority))
        + (b"\x40" + _text(b"te") + _text(b"trailers"))
        + (b"\x5f" + _text(b"application/grpc"))
        + (b"\x7a" + _text(b"grpc-python/1.83.0 grpc-c/55.0.0 (linux; chttp2)"))
        + (b"\x40" + _text(b"grpc-timeout") + _text(b"60S"))
    )


def _text(value: bytes) -> bytes:
    if len(value) >= 127:
        raise ValueError(f"{value!r} is too long for one octet of length")
    return bytes((len(value),)) + value
