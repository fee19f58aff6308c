import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import JOB, add_devices
from sqlalchemy import Connection, create_engine

from fwdllm_server.store import jobs
from fwdllm_server.store.database import Database
from fwdllm_server.store.schema import metadata

DEVICES = ("ann", "bob", "cid")
POSTGRES = "FWDLLM_TEST_POSTGRES"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of either kind: every test with this fixture runs against both."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fwdllm.db'}"
        return
    url = os.environ.get(POSTGRES)
    if not url:
        pytest.skip(f"set {POSTGRES} to the URL of an empty PostgreSQL database to run this against it")
    _empty(url)
    yield url
    _empty(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with one job and three devices."""
    database = Database(database_url)
    with database.transaction() as connection:
        jobs.add(connection, JOB, "tiny", "", "/", 2, 0.0)
    add_devices(database, DEVICES)
    yield database
    database.close()


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.transaction() as connection:
        yield connection


def _empty(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    engine.dispose()
