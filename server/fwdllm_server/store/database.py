"""The database: SQLite in WAL mode by default, PostgreSQL by URL, migrated to this version's tables."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError

from fwdllm_common.errors import BadInputError, StorageError
from fwdllm_common.files import storage_error
from fwdllm_server.store.locks import change_tables

_PRAGMAS = (
    ("journal_mode", "WAL"),  # readers do not wait for the writer
    ("synchronous", "FULL"),  # a commit is on disk when it returns: a scalar is durable before it is acknowledged
    ("foreign_keys", "ON"),
    ("busy_timeout", "5000"),  # milliseconds; an operator's backup may hold the lock
)

_SETTINGS = (
    # A coordinator whose machine sleeps during a transaction blocks the others from its jobs at most this long.
    ("idle_in_transaction_session_timeout", "10s"),
    # A coordinator whose machine or network has failed is detected within eight seconds.
    ("tcp_keepalives_idle", "4"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "2"),
)


class Transactions(Protocol):
    """A store of the coordinator's tables; of a block in a transaction, all changes are kept or none."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """Run the block in a transaction. When it is on disk, the store says.

        :raises StorageError: the database cannot be written.
        """


class Database:
    """One database and its transactions.

    :param url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql+psycopg://…``.
    :raises BadInputError: the database has no encoding.
    :raises StorageError: it cannot be opened or migrated.
    """

    def __init__(self, url: str) -> None:
        make_private(sqlite_file(url))
        self._engine = _opened(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_immediately)
        else:
            event.listen(self._engine, "connect", _configure_postgresql)
        try:
            with storage_errors():
                _migrate(self._engine)
        except StorageError:
            self.close()
            raise

    @property
    def shared(self) -> bool:
        """Whether other coordinators may use the database too."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run the block in a transaction: committed and on disk when it ends, rolled back when it raises.

        :raises StorageError: the database cannot be written.
        """
        with storage_errors(), self._engine.begin() as connection:
            yield connection

    def connect(self) -> Connection:
        """Open a connection whose transactions the caller commits; the caller closes it before :meth:`close`."""
        return self._engine.connect()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def parsed_url(url: str) -> URL:
    """Parse a database's URL, which may hold a password.

    :raises BadInputError: it is not a URL; the message does not show it.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise BadInputError(
            "[store] url cannot be read; it is like postgresql+psycopg://user:password@host:5432/database, "
            "with %40 for an @ in the password and %3A for a colon"
        ) from None


def sqlite_file(url: str) -> Path | None:
    """Return the SQLite file that a URL names, None for other databases and for one in memory.

    :raises BadInputError: it is not a URL, or it is a URI of SQLite's own kind.
    """
    parsed = parsed_url(url)
    name = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or name in ("", ":memory:"):
        return None
    if name.startswith("file:"):
        raise BadInputError("[store] url: name SQLite's file by its path, as in sqlite:////srv/fwdllm.db")
    return Path(name)


def make_private(file: Path | None) -> None:
    """Create a database's file, unless it exists, readable by its owner only; SQLite's other files take its mode.

    :raises StorageError: it cannot be created.
    """
    if file is None:
        return
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise storage_error(file, error) from error


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """Open a database to read it as it is, whatever the version of its tables.

    :raises StorageError: it cannot be read.
    """
    engine = _opened(url)
    try:
        with storage_errors(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def schema_versions(url: str) -> tuple[str | None, str | None]:
    """Return the version of a database's tables, None where there are none, and the newest version.

    :raises StorageError: it cannot be opened.
    """
    with reading(url) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found, ScriptDirectory.from_config(_migrations()).get_current_head()


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _migrate(engine: Engine) -> None:
    config = _migrations()
    with engine.begin() as connection:
        change_tables(connection)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(
                f"the database was made by a newer version of fwdllm ({error}); install that version"
            ) from error


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, below
    for name, value in _PRAGMAS:
        connection.execute(f"PRAGMA {name}={value}")


def _opened(url: str) -> Engine:
    engine = create_engine(parsed_url(url))
    if engine.dialect.name == "postgresql":
        # Before SQLAlchemy reads the server's version, which it cannot as bytes.
        event.listen(engine, "connect", _check_encoding, insert=True)
    return engine


def _check_encoding(connection: Any, _record: object) -> None:
    if connection.info.encoding == "ascii":  # psycopg then gives bytes for every text
        raise BadInputError(
            "[store] url names a PostgreSQL database in SQL_ASCII, which says nothing of its texts; create one with "
            "CREATE DATABASE fwdllm ENCODING 'UTF8' TEMPLATE template0"
        )


def _configure_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        for name, value in _SETTINGS:
            cursor.execute(f"SET {name} = '{value}'")
    connection.commit()  # otherwise the first rollback would undo the settings


def _begin_immediately(connection: Connection) -> None:
    # Taking the write lock at once turns a conflict of two writers into a wait instead of an error.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of the database into a :class:`StorageError` that says what to do."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, IntegrityError | DataError):  # an error of the caller
            raise
        if _is_damaged(error):
            raise StorageError(
                f"the database is damaged ({error.orig}), and what it holds may be lost: stop the server, keep a copy "
                "of the file and restore the newest backup"
            ) from error
        raise StorageError(
            f"the database cannot be used ({error.orig}); check its disk and permissions and start again, "
            "nothing that was acknowledged is lost"
        ) from error


def _is_damaged(error: DBAPIError) -> bool:
    """Return whether the file is not a database, or a damaged one."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    # PostgreSQL's class XX: internal errors, data_corrupted and index_corrupted among them.
    return str(getattr(error.orig, "sqlstate", None) or "").startswith("XX")
