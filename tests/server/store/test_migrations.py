from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from helpers.rig import JOB
from sqlalchemy import Connection, column, create_engine, inspect, table

from fwdllm_common.errors import StorageError
from fwdllm_server import store
from fwdllm_server.store import feature_sums, job_devices, jobs, ledger
from fwdllm_server.store.database import Database
from fwdllm_server.store.schema import metadata


def test_the_migrations_make_the_tables_of_the_schema(connection):
    context = MigrationContext.configure(connection, opts={"compare_type": True})

    assert compare_metadata(context, metadata) == []


def test_the_indices_are_there(connection):
    indices = {index["name"] for index in inspect(connection).get_indexes("assignments")}

    assert indices == {"assignments_by_device", "assignments_by_round"}


def test_opening_again_keeps_what_is_there(database, database_url):
    database.close()
    again = Database(database_url)
    with again.transaction() as connection:
        assert jobs.get(connection, JOB) is not None
    again.close()


def test_a_database_of_a_newer_version_is_refused_with_a_remedy(database, database_url):
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()

    with pytest.raises(StorageError, match="newer version of fwdllm"):
        Database(database_url)


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path):
    (tmp_path / "fwdllm.db").write_bytes(b"these are notes of mine, not tables" * 100)

    with pytest.raises(StorageError, match="not a database"):
        Database(f"sqlite:///{tmp_path / 'fwdllm.db'}")


def test_a_folder_that_does_not_exist_is_a_storage_error(tmp_path: Path):
    with pytest.raises(StorageError, match=r"cannot write .*fwdllm\.db"):
        Database(f"sqlite:///{tmp_path / 'nowhere' / 'fwdllm.db'}")


OLD_JOB = {
    "id": "old",
    "name": "tiny",
    "spec_toml": "",
    "base_folder": "/",
    "state": "done",
    "message": "",
    "rounds_wanted": 2,
    "created_at": 0.0,
    "head_init": "zeros",
    "trainable_parameters": 7,
    "scalars_repeated": 1,
    "scalars_late": 2,
    "scalars_unusable": 3,
}
"""A job in the columns of the first version."""


@contextmanager
def stored_by(version: str, database_url: str) -> Iterator[Connection]:
    """A transaction on the tables of an older version."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        yield connection
    engine.dispose()


def insert(connection: Connection, name: str, row: Mapping[str, object]) -> None:
    connection.execute(table(name, *map(column, row)).insert().values(row))


def test_jobs_of_the_first_version_are_kept(database_url):
    """The second brings a column for jobs and a table."""
    with stored_by("0001", database_url) as connection:
        insert(connection, "jobs", OLD_JOB)
        # What refers to a job forbids to make its table anew.
        connection.exec_driver_sql("INSERT INTO snapshots (job_id, version, sha256) VALUES ('old', 0, 'a')")
    database = Database(database_url)
    with database.transaction() as connection:
        record = jobs.get(connection, "old")
        assert list(feature_sums.of_job(connection, "old")) == []
        assert ledger.latest_snapshot(connection, "old") == (0, "a")
    database.close()

    assert record is not None
    assert (record.state, record.head_init, record.scalars_unusable, record.headless_sha256) == (
        "done",
        "zeros",
        3,
        None,
    )
    assert (record.paused, record.priority, record.selected_at) == (False, 0, None)
    assert (record.resolved_spec, record.resumed_at, record.extended_from) == (None, None, None)


def test_totals_beyond_their_bounds_are_brought_within(database_url):
    """What an older version has stored would keep pages and metrics from being shown."""
    with stored_by("0012", database_url) as connection:
        insert(connection, "jobs", {**OLD_JOB, "paused": False, "priority": 0})
        connection.exec_driver_sql(
            "INSERT INTO devices (id, name, key_sha256, enrolled_at, training_examples, software, certificates_from) "
            "VALUES ('ann', 'ann', 'ann', 0.0, 7, '', 0.0)"
        )
        connection.exec_driver_sql(
            "INSERT INTO efforts (job_id, device_id, scalars, seconds, example_passes, joules, recent_seconds, "
            "recent_passes, peak_rss_bytes, bytes_sent, bytes_received, artifact_bytes, last_bytes_sent, "
            "last_bytes_received, last_artifact_bytes) "
            "VALUES ('old', 'ann', 5, 1.5, 1e308, 1e300, 1.0, 2.0, 3, 4611686018427387904, 4, 5, 6, 7, 8)"
        )
    database = Database(database_url)
    with database.transaction() as connection:
        (row,) = job_devices.of_job(connection, "old")
    database.close()

    assert (row.example_passes, row.joules, row.bytes_sent) == (job_devices.MOST, job_devices.MOST, job_devices.MOST)
    assert (row.scalars, row.seconds, row.bytes_received, row.failures, row.failed_at) == (5, 1.5, 4, 0, None)
