"""Download of a file from a mirror: an HTTP(S) server, a bucket or a CDN that has files under their SHA-256.

A mirror is believed in nothing: the size is bounded by what the coordinator announced, and the hash decides. No
credentials are sent, and a redirect leads to HTTP or HTTPS alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib import request
from urllib.parse import urlsplit

from fwdllm_common.errors import IntegrityError

TIMEOUT_S = 30.0
"""Without a byte, seconds."""
_CHUNK_BYTES = 1 << 16


class MirrorError(Exception):
    """The mirror does not give the file."""


def download(url: str, part: Path, limit: int, progressed: Callable[[int], None]) -> None:
    """Append to ``part`` what it lacks of the file at ``url``, and make it durable.

    ``progressed`` is called with the bytes of each chunk; its exception ends the download, which can be resumed.

    :raises MirrorError: the mirror cannot be reached, has no such file, or stops early.
    :raises IntegrityError: it sends more than ``limit`` bytes; ``part`` is then empty.
    :raises OSError: ``part`` cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise MirrorError(f"{url} is neither http nor https")
    with part.open("ab") as file:
        offset = file.tell()
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        asked = request.Request(url, headers=headers)  # noqa: S310 - the opener knows no other schemes
        try:
            with _opener().open(asked, timeout=TIMEOUT_S) as answer:
                if offset and answer.status != 206:  # it sends the whole file again
                    file.truncate(0)
                    offset = 0
                announced = answer.headers.get("Content-Length")
                end = offset + int(announced) if announced else None
                while offset <= limit and (data := answer.read(_CHUNK_BYTES)):
                    offset += len(data)
                    _write(file.write, data)
                    progressed(len(data))
                if end is not None and offset < min(end, limit):  # read() does not raise where the connection is cut
                    raise MirrorError(f"{url} ended after {offset} of {end} bytes")  # noqa: TRY301
        except (_DiskError, MirrorError):
            raise
        except (OSError, HTTPException, ValueError) as error:  # of the network: a URLError is an OSError
            raise MirrorError(f"{url}: {error}") from error
        if offset > limit:
            file.truncate(0)
            raise IntegrityError(f"{url} sends more than the {limit} bytes that were announced")
        file.flush()
        os.fsync(file.fileno())


class _DiskError(OSError):
    """As the error of a write, to be told from those of the network."""


def _write(write: Callable[[bytes], object], data: bytes) -> None:
    try:
        write(data)
    except OSError as error:
        raise _DiskError(error.errno, error.strerror) from error


def _opener() -> request.OpenerDirector:
    """Return an opener without handlers for files and FTP, which a redirect could name."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
