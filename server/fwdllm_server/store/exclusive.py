"""One coordinator for each SQLite file, from whatever directory it is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fwdllm_common.lock import locked
from fwdllm_server.store.database import parsed_url


@contextmanager
def only_user(url: str) -> Iterator[None]:
    """Hold the SQLite file that ``url`` names for this process; other databases have several users.

    :raises BadInputError: it is no URL.
    :raises BusyError: another process holds it.
    :raises StorageError: its folder cannot be written.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        yield
        return
    file = Path(parsed.database)
    remedy = "stop it first, or let both use PostgreSQL ([store] url in server.toml)"
    with locked(file.with_name(f"{file.name}.lock"), f"another fwdllm-server uses {file}", remedy):
        yield
