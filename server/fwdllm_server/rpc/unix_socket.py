"""The operator's plane on a Unix socket: a file to which only the coordinator's user may connect."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

from fwdllm_common.errors import BadInputError, BusyError
from fwdllm_common.files import storage_error

_LONGEST = 107 if sys.platform == "linux" else 103
"""Bytes that a socket's path may have."""


def grpc_target(path: Path) -> str:
    """The name that gRPC has for the socket at ``path``, absolute.

    :raises BadInputError: the path is too long, on systems where there is no way around.
    :raises StorageError: its folder cannot be opened.
    """
    return f"unix:{quote(str(_short(path)))}"


@contextmanager
def for_its_owner_only() -> Iterator[None]:
    """Sockets that are bound inside have mode 0600 from their first moment on."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def check_socket_free(path: Path) -> None:
    """See that the operator's socket can be made at ``path``.

    What a coordinator left there that was killed is in nobody's way.

    :raises BusyError: another program listens on it.
    :raises BadInputError: something else is there, or the folder is not to be written to, or the path too long.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadInputError(f"[listen] operator: {path} is there and no socket; name another in server.toml")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(_short(path)))
    except FileNotFoundError as error:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise BadInputError(
                f"[listen] operator: no socket can be made in {path.parent}; name another folder in server.toml"
            ) from error
    except ConnectionRefusedError:
        pass
    except OSError as error:
        raise storage_error(path, error) from error
    else:
        raise BusyError(
            f"[listen] operator: another program listens on {path}; stop it, or name another in server.toml"
        )


def _short(path: Path) -> Path:
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    if sys.platform != "linux":
        raise BadInputError(
            f"[listen] operator: {path} is longer than the {_LONGEST} bytes of a Unix socket's path; "
            f'name a shorter one ("unix:/run/fwdllm.sock") or a port ("127.0.0.1:7445") in server.toml'
        )
    return Path(f"/proc/self/fd/{_descriptor(path.parent)}") / path.name


@cache
def _descriptor(folder: Path) -> int:
    """Of the folder, opened once and for good: gRPC comes back to the path to connect again, and to remove it."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise storage_error(folder, error) from error
