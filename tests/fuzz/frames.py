"""Calls as bytes of HTTP/2 (RFC 9113), so that they can be cut off and spoilt where no gRPC client would."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path

from helpers.live_server import LiveServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_HEADERS, END_STREAM = 4, 1
_ANSWER_S = 5.0


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(payload: bytes, length: int | None = None) -> bytes:
    """gRPC's prefix and the message; ``length`` may lie."""
    return b"\0" + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def opening(path: str, stream: int = 1) -> bytes:
    """A call's headers."""
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return frame(HEADERS, END_HEADERS, stream, literals(headers))


def literals(headers: Mapping[str, str]) -> bytes:
    """Headers as HPACK has them that are in no table."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def conversation(path: str, payload: bytes, length: int | None = None, stream: int = 1) -> bytes:
    """All that a client sends for one call."""
    body = message(payload, length)
    return beginning() + opening(path, stream) + frame(DATA, END_STREAM, stream, body)


def unfinished(path: str, stream: int, payload: bytes, length: int) -> bytes:
    """A call on a stream, whose message of ``length`` bytes never comes to its end."""
    return opening(path, stream) + data(stream, message(payload, length))


def data(stream: int, body: bytes) -> bytes:
    """Bytes of a message on a stream that goes on."""
    pieces = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    return b"".join(frame(DATA, 0, stream, piece) for piece in pieces)


def beginning() -> bytes:
    """Of a connection: the preface and empty settings."""
    return PREFACE + frame(SETTINGS, 0, 0, b"")


def connect(server: LiveServer, caller: str, plane: str, source: str = "127.0.0.1") -> ssl.SSLSocket:
    """TLS to a port with the caller's certificate, from an address of this machine."""
    context = ssl.create_default_context(cadata=server.authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2"])
    if identity := server.identities[caller]:
        with tempfile.TemporaryDirectory() as folder:
            chain = Path(folder) / "chain.pem"
            chain.write_bytes(identity.key + identity.certificate)
            context.load_cert_chain(chain)
    host, _, port = server.addresses[plane].rpartition(":")
    raw = socket.create_connection((host, int(port)), timeout=_ANSWER_S, source_address=(source, 0))
    return context.wrap_socket(raw, server_hostname=host)


def say(server: LiveServer, caller: str, plane: str, data: bytes, *, half_close: bool) -> None:
    """Send bytes and go, at once or when the server has said what it has to say."""
    try:
        with connect(server, caller, plane) as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
    except OSError:  # it may hang up on us at any time
        return


def _text(value: str) -> bytes:
    # A literal of HPACK (RFC 7541), not Huffman-coded, shorter than 127 bytes.
    return bytes([len(value)]) + value.encode()
