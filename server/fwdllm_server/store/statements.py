"""The statements that depend on the dialect or on the number of keys: upserts, and queries of many keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

_KEYS_PER_STATEMENT = 1000
"""The most keys in one statement, whose bound parameters are limited."""


def insert_into(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can have an ON CONFLICT clause; ``dialect`` is SQLAlchemy's name of it."""
    return postgresql.insert(table) if dialect == postgresql.dialect.name else sqlite.insert(table)


def upsert(connection: Connection, table: Table, key: Mapping[str, object], values: Mapping[str, object]) -> None:
    """Insert the row of this primary ``key``, or set ``values`` in the row that is there."""
    statement = insert_into(table, connection.dialect.name).values({**key, **values})
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=dict(values)))


def chunks(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the keys, in order, in parts that one statement can name."""
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        yield keys[start : start + _KEYS_PER_STATEMENT]
