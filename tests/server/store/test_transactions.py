import threading

import pytest
from helpers.rig import JOB
from helpers.stored import record
from sqlalchemy.exc import IntegrityError

from fwdllm_server.store import ledger, scalars
from fwdllm_server.store.database import Database


def count(database: Database) -> int:
    with database.transaction() as connection:
        return scalars.count(connection, JOB, 1)


def test_a_block_that_raises_leaves_nothing_behind(database):
    def fail() -> None:
        with database.transaction() as connection:
            record(connection, JOB, 1, "w", "ann", {1: 10})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(database) == 0


def test_what_was_committed_is_there_when_the_database_is_opened_again(database, database_url):
    with database.transaction() as connection:
        record(connection, JOB, 1, "w", "ann", {1: 10, 2: -20})
    database.close()
    again = Database(database_url)

    assert count(again) == 2
    again.close()


def test_a_broken_rule_of_the_schema_is_no_fault_of_the_disk(database):
    with database.transaction() as connection:
        ledger.add_snapshot(connection, JOB, 0, "a" * 64)

    with pytest.raises(IntegrityError), database.transaction() as connection:
        ledger.add_snapshot(connection, "no such job", 0, "a" * 64)


def test_a_second_writer_waits_for_the_first(database, database_url):
    """Both read before they write: SQLite refuses the second at once unless it took the lock when it began."""
    other = Database(database_url)
    inside, done = threading.Event(), threading.Event()

    def second() -> None:
        inside.wait(10)
        with other.transaction() as connection:
            scalars.count(connection, JOB, 1)
            record(connection, JOB, 1, "w", "bob", {1: 10, 2: 20})
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    with database.transaction() as connection:
        record(connection, JOB, 1, "w", "ann", {1: 10})
        inside.set()
        assert not done.wait(0.05)  # it cannot be done while the first is in its transaction
    thread.join(10)

    assert done.is_set()
    assert count(database) == 2
    other.close()
