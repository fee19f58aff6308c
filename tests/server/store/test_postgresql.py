"""What only PostgreSQL has: a planner that goes by statistics, and lengths that are kept."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.postgres import Postgres
from helpers.rig import JOB
from helpers.stored import record
from sqlalchemy import Connection, event
from sqlalchemy.exc import DataError

from fwdllm_common.errors import BadInputError
from fwdllm_server.store import scalars
from fwdllm_server.store.database import Database

ROUND = range(1 << 32, (1 << 32) + 5000)
"""The seeds of a round."""
SHARE = ROUND[2000:2300]
"""Those of one device."""


@pytest.fixture
def connection(postgres: Postgres) -> Iterator[Connection]:
    """One transaction on a database that is new: what it writes no other has seen, nor autovacuum."""
    database = Database(postgres.create_database())
    with database.transaction() as connection:
        yield connection
    database.close()


def plans(connection: Connection, work: Callable[[], object]) -> list[dict[str, Any]]:
    """How the statements that ``work`` makes are executed, down to the scan of a table."""
    statements: list[tuple[str, Any]] = []
    event.listen(connection, "before_cursor_execute", lambda *call: statements.append(call[2:4]))
    work()
    explained = [
        connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
        for statement, parameters in tuple(statements)
    ]
    return [_scan(each[0]["Plan"]) for each in explained]


def _scan(plan: dict[str, Any]) -> dict[str, Any]:
    return _scan(plan["Plans"][0]) if "Plans" in plan else plan


def test_who_has_measured_a_share_is_looked_up_by_its_seeds_before_there_are_statistics(connection):
    record(connection, JOB, 1, "w", "ann", dict.fromkeys(ROUND, 7))

    (scan,) = plans(connection, lambda: scalars.measured_by(connection, JOB, 1, SHARE))

    assert "seed" in scan["Index Cond"]
    assert scan["Actual Rows"] == len(SHARE)
    assert scan.get("Rows Removed by Filter", 0) == 0


def test_an_id_that_is_too_long_is_refused_and_not_cut(connection):
    with pytest.raises(DataError, match="too long"), connection.begin_nested():
        record(connection, JOB, 1, "w" * 97, "ann", {5: 10})

    assert scalars.count(connection, JOB, 1) == 0


def test_a_database_without_an_encoding_is_refused(postgres):
    url = postgres.create_database("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(BadInputError, match="in SQL_ASCII, which says nothing of its texts; create one with"):
        Database(url)
