"""Atomic writes and hashes of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from pathlib import Path

from fwdllm_common.errors import BadInputError, FwdllmError, StorageError


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``path``; a crash leaves either the old file or the new one, complete and on disk.

    :raises StorageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing can be written there is nothing to remove
            temporary.unlink()
        raise storage_error(path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents if they do not exist.

    :raises StorageError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error


def check_new(folder: Path, advice: str = "choose another") -> None:
    """Check that a folder can be written as a new one: it does not exist, or is empty.

    :raises BadInputError: it is neither; the message ends with the ``advice``.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is not an empty folder; {advice}")


def sync(path: Path) -> None:
    """Flush the bytes of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> FwdllmError:
    """Return the :class:`StorageError` that says what to do about ``error`` at ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left to write {path}; free some and start again, nothing is lost")
    return StorageError(f"cannot write {path} ({error.strerror}); check the folder's permissions and start again")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
