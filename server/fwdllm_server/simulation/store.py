"""The coordinator's store in one SQLite file, together with the state of the simulated devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, LargeBinary, MetaData, String, Table, delete, insert, select, text

from fwdllm_server.simulation.population import VirtualDevice
from fwdllm_server.store import schema
from fwdllm_server.store.database import Database, storage_errors

DATABASE = "simulation.sqlite"
"""The file of the store in a simulation's folder."""
JOB_ID = "simulated"

_metadata = MetaData()
_facts = Table(
    "simulation",
    _metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
# A run of thousands of rounds has millions of assignments, and each step queries the open ones.
_INDEX = text("CREATE INDEX IF NOT EXISTS simulation_assignments_by_state ON assignments (state)")


class SimulationStore:
    """A store in the SQLite file ``path``, which commits at checkpoints only.

    It is no :class:`Database`, whose transactions are on disk when they end. Here everything between two checkpoints
    is one transaction of the database. An error, or the end of the process, rolls it back. Beside the coordinator's
    tables, the store has a table of named values.

    :raises StorageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(f"sqlite:///{path}")
        self._connection = self._database.connect()
        with self.transaction() as connection:
            _metadata.create_all(connection)
            connection.execute(_INDEX)
        self.checkpoint()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose changes the next checkpoint commits. An error rolls back to the last checkpoint."""
        with storage_errors():
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise

    def checkpoint(self) -> None:
        """Commit all changes since the last checkpoint.

        :raises StorageError: the disk is full.
        """
        with storage_errors():
            self._connection.commit()

    def fact(self, name: str) -> bytes | None:
        """Return the value that was last stored under ``name``, or None."""
        with self.transaction() as connection:
            return connection.execute(select(_facts.c.value).where(_facts.c.name == name)).scalar_one_or_none()

    def keep(self, name: str, value: bytes) -> None:
        """Store a value under ``name`` in place of the earlier one."""
        with self.transaction() as connection:
            connection.execute(delete(_facts).where(_facts.c.name == name))
            connection.execute(insert(_facts).values(name=name, value=value))

    def enrol(self, devices: Sequence[VirtualDevice]) -> None:
        """Add the simulated devices to the store."""
        rows = [
            {
                "id": device.id,
                "name": device.id,
                "key_sha256": device.id,
                "enrolled_at": 0.0,
                "training_examples": len(device.training),
                "software": "simulated",
            }
            for device in devices
        ]
        with self.transaction() as connection:
            connection.execute(insert(schema.devices), rows)

    def close(self) -> None:
        """Roll back to the last checkpoint, and close every connection."""
        self._connection.close()
        self._database.close()
