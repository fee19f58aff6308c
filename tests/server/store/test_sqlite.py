"""What only SQLite has: its pragmas, and a disk that fills up under it."""

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import JOB
from helpers.stored import record, seeds_of_round
from helpers.tiny_job import add_unprepared_job

from fwdllm_common.errors import StorageError
from fwdllm_server.store import jobs
from fwdllm_server.store.database import Database

BATCH = 500


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root's rights")
    yield folder
    subprocess.run(["umount", folder], check=True)


def opened(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder / 'fwdllm.db'}")
    with database.transaction() as connection:
        if jobs.get(connection, JOB) is None:
            add_unprepared_job(connection, JOB)
    return database


def record_until_full(database: Database) -> int:
    """Returns how many scalars were acknowledged."""
    acknowledged = 0
    with pytest.raises(StorageError, match="full"):  # noqa: PT012 - the loop is the statement that fails
        while acknowledged < 1_000_000:
            with database.transaction() as connection:
                batch = range(acknowledged, acknowledged + BATCH)
                record(connection, JOB, 1, "w", "ann", dict.fromkeys(batch, 7))
            acknowledged += BATCH
    assert acknowledged > 0
    return acknowledged


def seeds(database: Database) -> frozenset[int]:
    with database.transaction() as connection:
        return seeds_of_round(connection, JOB, 1)


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 5000)]
)
def test_a_commit_is_durable_and_a_lock_is_waited_for(tmp_path, pragma, value):
    database = opened(tmp_path)
    with database.transaction() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value
    database.close()


def test_a_full_disk_loses_nothing_that_was_acknowledged(full_disk):
    database = opened(full_disk)
    acknowledged = record_until_full(database)
    database.close()
    again = opened(full_disk)

    assert seeds(again) == frozenset(range(acknowledged))
    again.close()


def test_a_full_disk_still_lets_itself_be_read(full_disk):
    database = opened(full_disk)
    acknowledged = record_until_full(database)

    assert len(seeds(database)) == acknowledged
    database.close()


def test_it_goes_on_once_there_is_room_again(full_disk):
    database = opened(full_disk)
    acknowledged = record_until_full(database)
    subprocess.run(["mount", "-o", "remount,size=4m", full_disk], check=True)
    with database.transaction() as connection:
        record(connection, JOB, 1, "w", "ann", {10**9: 7})

    assert len(seeds(database)) == acknowledged + 1
    database.close()


def test_a_database_at_its_own_limit_is_a_full_disk_too(tmp_path):
    database = opened(tmp_path)
    with database.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")
    acknowledged = record_until_full(database)
    database.close()
    again = opened(tmp_path)

    assert seeds(again) == frozenset(range(acknowledged))
    again.close()


@pytest.mark.parametrize("part", [slice(0, 4096), slice(4096, None)], ids=["header", "pages"])
def test_a_damaged_file_is_told_from_one_that_cannot_be_written(tmp_path, part):
    opened(tmp_path).close()
    file = tmp_path / "fwdllm.db"
    data = bytearray(file.read_bytes())
    data[part] = b"\xa5" * len(data[part])
    file.write_bytes(data)
    with pytest.raises(StorageError) as caught:  # noqa: PT012 - the first use that meets the damage fails
        database = opened(tmp_path)
        seeds(database)
    assert "the database is damaged" in str(caught.value)
    assert "nothing" not in str(caught.value)
    assert "backup" in str(caught.value)


def test_the_file_and_those_beside_it_are_for_their_owner_only(tmp_path):
    database = opened(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["fwdllm.db", "fwdllm.db-wal", "fwdllm.db-shm"], 0o600)
    database.close()


def test_a_disk_that_may_not_be_written_is_a_storage_error(tmp_path):
    database = opened(tmp_path)
    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    with pytest.raises(StorageError, match="check its disk"), database.transaction() as connection:
        record(connection, JOB, 1, "w", "ann", {1: 1})
    database.close()
