"""A database of an earlier release, with a run in progress, is migrated when the server starts, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from helpers.rig import Rig, ScriptedDevice, run_to_end, work_until
from helpers.tiny_job import job_toml
from sqlalchemy import MetaData, create_engine, insert, select

from fwdllm_server import store
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.schema import metadata

NAMES = ("a", "b")
TOML = job_toml({"rounds": {"count": 4, "min_devices": 2}, "blocks.head": {"directions": 10}})


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    return config


EARLIER = [revision.revision for revision in ScriptDirectory.from_config(migrations()).walk_revisions()][1:]
"""Every version but the newest, found from the migrations."""


def in_progress(folder: Path) -> tuple[Rig, list[ScriptedDevice]]:
    """A run in the middle of its third round: one device has reported a part, the other nothing."""
    rig = Rig.create(folder, TOML, NAMES)
    devices = [ScriptedDevice(name) for name in NAMES]
    work_until(rig, devices, 2)
    rig.begin_round(*NAMES)
    devices[0].work(rig)
    rig.settle()
    return rig, devices


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], bytes]:
    rig, devices = in_progress(tmp_path_factory.mktemp("uninterrupted"))
    rig = run_to_end(rig, devices)
    result = rig.ledger_bytes(), rig.job.state.digest
    rig.database.close()
    return result


def written_by(version: str, source: str, target: str) -> None:
    """Make a database as that version had it, with the rows that ``source`` has, as far as it knew them."""
    old, new = create_engine(target), create_engine(source)
    with old.begin() as there, new.begin() as here:
        config = migrations()
        config.attributes["connection"] = there
        command.upgrade(config, version)
        known = MetaData()
        known.reflect(there)
        for table in metadata.sorted_tables:
            if table.name in known.tables:
                columns = [column for column in table.columns if column.name in known.tables[table.name].columns]
                rows = [dict(row._mapping) for row in here.execute(select(*columns))]
                if rows:
                    there.execute(insert(known.tables[table.name]), rows)
    old.dispose()
    new.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("version", EARLIER)
def test_a_run_in_progress_goes_on(version, kind, uninterrupted, tmp_path, request):
    rig, devices = in_progress(tmp_path)
    rig.database.close()
    postgres = kind == "postgresql"
    url = request.getfixturevalue("postgres").create_database() if postgres else f"sqlite:///{tmp_path / 'old.db'}"
    written_by(version, f"sqlite:///{tmp_path / 'fwdllm.db'}", url)
    upgraded = Rig(Database(url), ArtifactStore(tmp_path / "artifacts"), rig.now)
    upgraded = run_to_end(upgraded, devices)

    assert upgraded.record.state == JobState.DONE
    assert (upgraded.ledger_bytes(), upgraded.job.state.digest) == uninterrupted
    assert not any(device.journal for device in devices)
    upgraded.database.close()
