"""The lock that admits one coordinator to a SQLite file, whatever its directory and name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fwdllm_common.errors import BusyError
from fwdllm_common.files import storage_error
from fwdllm_server.store.database import make_private, sqlite_file


@contextmanager
def only_user(url: str) -> Iterator[None]:
    """Lock the SQLite file that ``url`` names for this process; other databases admit several.

    The file itself is locked, so that symbolic and hard links to it are recognised. Close every connection before the
    block ends: closing any descriptor of a file releases SQLite's locks on it.

    :raises BadInputError: it is not a URL.
    :raises BusyError: another process has locked the file.
    :raises StorageError: the file cannot be created.
    """
    file = sqlite_file(url)
    if file is None:
        yield
        return
    make_private(file)
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise storage_error(file, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # SQLite's own locks are of another kind
        except BlockingIOError as error:
            raise BusyError(
                f"another fwdllm-server uses {file}; stop it first, or let both use PostgreSQL "
                "([store] url in server.toml)"
            ) from error
        yield
    finally:
        os.close(descriptor)
