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
JOB = {"rounds": {"count": 4, "min_devices": 2}, "blocks.head": {"directions": 10}}
TOML = job_toml(JOB)
UNCLIPPED = job_toml(JOB | {"robust": {"clip": 0.0}})
FIRST_WITH_SCALES = "0006"
"""The version from which on the scales of rounds are stored; a run of an earlier one does not clip by them."""


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    return config


EARLIER = [revision.revision for revision in ScriptDirectory.from_config(migrations()).walk_revisions()][1:]
"""Every version but the newest, found from the migrations."""


def in_progress(folder: Path, job: str) -> tuple[Rig, list[ScriptedDevice]]:
    """A run in the middle of its third round: one device has reported a part, the other nothing."""
    rig = Rig.create(folder, job, NAMES)
    devices = [ScriptedDevice(name) for name in NAMES]
    work_until(rig, devices, 2)
    rig.begin_round(*NAMES)
    devices[0].work(rig)
    rig.settle()
    return rig, devices


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[bytes], bytes]]:
    """The ledger and the hash of θ of each job, of a run that nothing interrupts."""
    results = {}
    for job in (TOML, UNCLIPPED):
        rig, devices = in_progress(tmp_path_factory.mktemp("uninterrupted"), job)
        rig = run_to_end(rig, devices)
        results[job] = rig.ledger_bytes(), rig.job.state.digest
        rig.database.close()
    return results


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
    job = TOML if version >= FIRST_WITH_SCALES else UNCLIPPED
    rig, devices = in_progress(tmp_path, job)
    rig.database.close()
    postgres = kind == "postgresql"
    url = request.getfixturevalue("postgres").create_database() if postgres else f"sqlite:///{tmp_path / 'old.db'}"
    written_by(version, f"sqlite:///{tmp_path / 'fwdllm.db'}", url)
    upgraded = Rig(Database(url), ArtifactStore(tmp_path / "artifacts"), rig.now)
    upgraded = run_to_end(upgraded, devices)

    assert upgraded.record.state == JobState.DONE
    assert (upgraded.ledger_bytes(), upgraded.job.state.digest) == uninterrupted[job]
    assert not any(device.journal for device in devices)
    upgraded.database.close()
