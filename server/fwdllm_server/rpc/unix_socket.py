"""The operator's Unix socket, to which only the coordinator's user may connect."""

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
"""Largest length of a socket's path, in bytes."""


def grpc_target(path: Path) -> str:
    """Return gRPC's address of the socket at ``path``, an absolute path.

    :raises BadInputError: the path is too long. Linux has a workaround, other systems do not.
    :raises StorageError: its folder cannot be opened.
    """
    return f"unix:{quote(str(_short(path)))}"


@contextmanager
def for_its_owner_only() -> Iterator[None]:
    """Set the umask for the block, so that sockets bound in it have mode 0600 from their creation on."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def check_socket_free(path: Path) -> None:
    """Check that the operator's socket can be created at ``path``.

    A stale socket of a coordinator that was killed is no obstacle.

    :raises BusyError: another program listens on the socket.
    :raises BadInputError: the path is another kind of file or too long, or its folder is not writable.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadInputError(
                f"[listen] operator: {path} exists and is not a socket; name another path in server.toml"
            )
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
    """Open the folder and keep it open: gRPC uses the path again to reconnect, and to remove the socket."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise storage_error(folder, error) from error
