"""A database whose process dies at a chosen commit."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from helpers.rig import CoordinatorDiedError, Rig
from sqlalchemy import Connection

from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database


@dataclass
class Fate:
    """Counts commits that change something; at the ``dies_at``-th the process dies, ``before`` or ``after`` it."""

    dies_at: int = 0
    when: Literal["before", "after"] = "before"
    commits: int = 0
    estate: Path = field(default=Path())


class MortalDatabase(Database):
    """A database whose process may die; what its files hold at that moment is copied to the estate, WAL and all."""

    def __init__(self, folder: Path, fate: Fate) -> None:
        super().__init__(f"sqlite:///{folder / 'fwdllm.db'}")
        self._folder = folder
        self._fate = fate

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            before = _changes(connection)
            yield connection
            changed = _changes(connection) > before
            self._fate.commits += changed
            dies = changed and self._fate.commits == self._fate.dies_at
            if dies and self._fate.when == "before":
                self._die()
        if dies:
            self._die()

    def _die(self) -> None:
        self._fate.estate.mkdir()
        for file in self._folder.glob("fwdllm.db*"):
            shutil.copy(file, self._fate.estate)
        raise CoordinatorDiedError


def mortal_rig(prepared: Path, folder: Path, fate: Fate) -> Rig:
    """A coordinator in a copy of the ``prepared`` folder, whose process has this fate."""
    shutil.copytree(prepared, folder)
    fate.estate = folder / "estate"
    return Rig(MortalDatabase(folder, fate), ArtifactStore(folder / "artifacts"))


def next_rig(dead: Rig, fate: Fate) -> Rig:
    """The coordinator that goes on from what the dead one has left on the disk."""
    dead.database.close()
    return Rig(MortalDatabase(fate.estate, fate), dead.artifacts, dead.now)


def _changes(connection: Connection) -> int:
    """How many rows the connection has changed so far."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.total_changes
