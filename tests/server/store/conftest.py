from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.postgres import Postgres
from helpers.rig import JOB, add_devices
from helpers.tiny_job import add_unprepared_job
from sqlalchemy import Connection

from fwdllm_server.store.database import Database

DEVICES = ("ann", "bob", "cid")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind: every test with this fixture runs against both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fwdllm.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with one job and three devices."""
    database = Database(database_url)
    with database.transaction() as connection:
        add_unprepared_job(connection, JOB)
    add_devices(database, DEVICES)
    yield database
    database.close()


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.transaction() as connection:
        yield connection
