"""What tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from helpers.postgres import Postgres, program


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, where one is installed."""
    if not program("initdb"):
        pytest.skip("no PostgreSQL is installed (Debian: postgresql)")
    with Postgres() as server:
        yield server


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command line sets up logging for its process; the next test gets structlog's own again."""
    yield
    structlog.reset_defaults()
