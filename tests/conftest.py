"""What tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.postgres import Postgres, program


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, where one is installed."""
    if not program("initdb"):
        pytest.skip("no PostgreSQL is installed (Debian: postgresql)")
    with Postgres() as server:
        yield server
