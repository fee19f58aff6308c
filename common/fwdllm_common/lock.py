"""A lock that lets one process at a time use a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fwdllm_common.errors import BusyError
from fwdllm_common.files import storage_error


@contextmanager
def locked(file: Path, busy: str, remedy: str) -> Iterator[None]:
    """Hold an exclusive lock on ``file``, which gets this process' id; the kernel releases it when the process ends.

    :raises BusyError: another process holds it; the message is ``busy`` with its process id, then ``remedy``.
    :raises StorageError: the file cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise storage_error(file, error) from error
    with os.fdopen(descriptor, "r+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{busy} (pid {held.read().strip() or 'unknown'}); {remedy}") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise storage_error(file, error) from error
        yield
