"""What is damaged on the coordinator's disk: one job's rows take nobody else down, files of models are restored."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from helpers.serving import JOB, ScriptedDevice, Serving, everything, refusal, serving
from sqlalchemy import insert, select, update

from fwdllm.v1.device_pb2 import GetArtifactRequest
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, JOB_STATE_FAILED, JOB_STATE_RUNNING, GetJobRequest, ListJobsRequest
from fwdllm_common.doctor import examine
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.cli.doctor_checks import checks
from fwdllm_server.config.home import ServerHome
from fwdllm_server.coordinator.coordinator import Coordinator
from fwdllm_server.store import jobs, ledger, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

DAMAGED = "damaged"
TURNS = 3000


@pytest.fixture
def home(folder: Path) -> ServerHome:
    return ServerHome.open(folder / "server")


@pytest.fixture
def artifacts(home: ServerHome) -> ArtifactStore:
    return ArtifactStore(home.artifacts)


def job_folder(home: ServerHome) -> Path:
    (folder,) = [path for path in home.jobs.iterdir() if (path / "bundle").exists()]
    return folder


def manifest_of(home: ServerHome) -> Manifest:
    return Manifest.from_bytes((job_folder(home) / "bundle" / MANIFEST_FILE).read_bytes())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def add_damaged_job(home: ServerHome, **changes: object) -> None:
    """A second job like the first, but for these columns."""
    database = Database(home.database_url(home.config()))
    with database.transaction() as connection:
        row = dict(connection.execute(select(schema.jobs)).one()._mapping)
        found = ledger.snapshots_of(connection, row["id"])
        connection.execute(insert(schema.jobs).values({**row, "id": DAMAGED, "name": DAMAGED, **changes}))
        for version, sha256 in found:
            ledger.add_snapshot(connection, DAMAGED, version, sha256)
    database.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spec_toml": "[job", "resolved_spec": None}, "[bad-input] damaged: "),
        ({"resolved_spec": "{"}, "[bad-input] damaged: the stored specification is damaged"),
        ({"header": b"\xff\xff"}, "[bad-input] "),
        ({"manifest_sha256": "ab" * 32}, f"[integrity] {MANIFEST_FILE} of the model: damaged or missing"),
        ({"base_folder": "/nowhere", "manifest_sha256": "ab" * 32}, "the model cannot be exported again: "),
    ],
    ids=["job file", "specification", "header", "manifest", "manifest and source"],
)
async def test_a_damaged_job_is_failed_with_its_reason_and_the_others_serve(
    home: ServerHome, changes: Mapping[str, object], reason: str
) -> None:
    add_damaged_job(home, **changes)
    async with serving(home) as server:
        device = await server.device("device-1")
        assert (await device.assignment()).job_id != DAMAGED
        failed = await server.until_state(JOB_STATE_FAILED, DAMAGED)
        assert reason in failed.message
        listed = (await server.operator.ListJobs(ListJobsRequest())).jobs
        assert {job.name: job.state for job in listed} == {JOB: JOB_STATE_RUNNING, DAMAGED: JOB_STATE_FAILED}


async def test_a_start_does_not_wait_for_a_job_that_failed_already(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged job's task has ended and is forgotten before the healthy one's is ready."""
    add_damaged_job(home, resolved_spec="{")
    drive = Coordinator._drive

    async def drive_later(self: Coordinator, lease: object) -> None:
        while DAMAGED in self._tasks and lease.job_id != DAMAGED:  # type: ignore[attr-defined]
            await self.runtime.change(1)
        await drive(self, lease)  # type: ignore[arg-type]

    monkeypatch.setattr(Coordinator, "_drive", drive_later)
    async with serving(home) as server:
        assert len(server.coordinator.training) == 1


@pytest.mark.parametrize("which", ["header", "ledger"])
async def test_a_finished_job_whose_rows_are_damaged_hides_no_other(home: ServerHome, which: str) -> None:
    add_damaged_job(home, state="done", **({"header": b"\xff\xff"} if which == "header" else {}))
    if which == "ledger":
        database = Database(home.database_url(home.config()))
        with database.transaction() as connection:
            connection.execute(
                insert(schema.rounds).values(
                    job_id=DAMAGED, number=1, phase="committed", phase_since=0.0, version=0, plan="{"
                )
            )
        database.close()
    async with serving(home) as server:
        listed = {job.name: job for job in (await server.operator.ListJobs(ListJobsRequest())).jobs}
        assert listed[JOB].state == JOB_STATE_RUNNING
        assert listed[DAMAGED].state == JOB_STATE_DONE
        assert "its records are damaged" in listed[DAMAGED].message
        shown = await server.operator.GetJob(GetJobRequest(job=DAMAGED))
        assert shown == listed[DAMAGED]


def missing_artifact(home: ServerHome, sha256: str, name: str) -> None:
    (home.artifacts / sha256).unlink()


def missing_copy(home: ServerHome, sha256: str, name: str) -> None:
    (job_folder(home) / "bundle" / name).unlink()


def flipped_both(home: ServerHome, sha256: str, name: str) -> None:
    artifact, copy = home.artifacts / sha256, job_folder(home) / "bundle" / name
    flip(artifact)
    if not copy.samefile(artifact):
        flip(copy)


@pytest.mark.parametrize("damage", [missing_artifact, missing_copy, flipped_both])
async def test_files_are_verified_and_restored_at_the_start(
    home: ServerHome, artifacts: ArtifactStore, damage: Callable[[ServerHome, str, str], None]
) -> None:
    manifest = manifest_of(home)
    victim = max(manifest.files, key=lambda file: file.bytes)
    damage(home, victim.sha256, victim.name)
    async with serving(home) as server:
        device = await server.device("device-1")
        await device.assignment()
        assert hashlib.sha256(await download(device, victim.sha256)).hexdigest() == victim.sha256
        assert hashlib.sha256((job_folder(home) / "bundle" / victim.name).read_bytes()).hexdigest() == victim.sha256
    assert artifacts.damaged() == []


async def test_the_first_version_is_made_again(home: ServerHome) -> None:
    database = Database(home.database_url(home.config()))
    with database.transaction() as connection:
        (record,) = jobs.in_state(connection)
        ((_, sha256),) = ledger.snapshots_of(connection, record.id)
    database.close()
    flip(home.artifacts / sha256)
    async with serving(home) as server:
        assert len(server.coordinator.training) == 1
    assert hashlib.sha256((home.artifacts / sha256).read_bytes()).hexdigest() == sha256


async def download(device: ScriptedDevice, sha256: str, *, doubted: bool = False) -> bytes:
    request = GetArtifactRequest(sha256=bytes.fromhex(sha256), doubted=doubted)
    return b"".join(chunk.data for chunk in await everything(device.service.GetArtifact(request)))


async def restored(device: ScriptedDevice, sha256: str) -> bytes:
    for _ in range(TURNS):
        with suppress(grpc.aio.AioRpcError):
            return await download(device, sha256)
    raise AssertionError("never restored")


async def test_a_file_that_is_missing_while_the_job_runs_is_restored(server: Serving, device: ScriptedDevice) -> None:
    victim = manifest_of(server.home).tokenizer
    await device.assignment()
    (server.home.artifacts / victim.sha256).unlink()
    status, reason, words = await refusal(download(device, victim.sha256))
    assert (status, reason) == (grpc.StatusCode.UNAVAILABLE, "storage")
    assert "is being restored" in words
    assert hashlib.sha256(await restored(device, victim.sha256)).hexdigest() == victim.sha256


async def test_a_file_that_a_device_found_damaged_is_read_and_restored(server: Serving, device: ScriptedDevice) -> None:
    victim = manifest_of(server.home).tokenizer
    await device.assignment()
    whole = await download(device, victim.sha256)
    copy = job_folder(server.home) / "bundle" / victim.name
    copy.write_bytes(whole)
    (server.home.artifacts / victim.sha256).unlink()
    (server.home.artifacts / victim.sha256).write_bytes(whole)  # two files, of which one is damaged
    flip(server.home.artifacts / victim.sha256)
    assert await download(device, victim.sha256) != whole
    status, reason, _ = await refusal(download(device, victim.sha256, doubted=True))
    assert (status, reason) == (grpc.StatusCode.UNAVAILABLE, "storage")
    artifact = server.home.artifacts / victim.sha256
    for _ in range(TURNS):
        if artifact.read_bytes() == whole:
            break
        await server.job()
    assert await download(device, victim.sha256, doubted=True) == whole


async def test_a_device_that_doubts_without_a_reason_costs_one_reading(
    server: Serving, device: ScriptedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fwdllm_server.coordinator import coordinator

    victim = manifest_of(server.home).tokenizer
    await device.assignment()
    read = []
    is_whole = coordinator.is_whole
    monkeypatch.setattr(coordinator, "is_whole", lambda *args: read.append(args) or is_whole(*args))
    for _ in range(5):
        await download(device, victim.sha256, doubted=True)
    assert len(read) == 1


async def test_a_running_job_whose_files_cannot_be_restored_is_failed(
    home: ServerHome, workplace: Path, tmp_path: Path
) -> None:
    shutil.copyfile(workplace / "held_out.csv", tmp_path / "held_out.csv")  # the model itself is gone
    database = Database(home.database_url(home.config()))
    with database.transaction() as connection:
        connection.execute(update(schema.jobs).values(base_folder=str(tmp_path)))
    database.close()
    async with serving(home) as server:
        device = await server.device("device-1")
        await device.assignment()
        victim = manifest_of(home).tokenizer
        flipped_both(home, victim.sha256, victim.name)
        await refusal(download(device, victim.sha256, doubted=True))
        failed = await server.until_state(JOB_STATE_FAILED)
    assert f"{victim.name} of the model: damaged or missing" in failed.message
    assert "cannot be exported again" in failed.message


def verdict(home: ServerHome) -> tuple[str, str, str]:
    found = dict(examine({"files": checks(home)["files"]}))["files"]
    return found.state, found.found, found.next


def test_doctor_reads_every_file(home: ServerHome) -> None:
    state, found, _ = verdict(home)
    assert state == "ok"
    assert "1 job" in found
    victim = manifest_of(home).tokenizer
    flip(home.artifacts / victim.sha256)
    state, found, remedy = verdict(home)
    assert state == "failed"
    assert victim.sha256 in found
    assert "backup" in remedy
    (home.artifacts / victim.sha256).unlink()
    state, found, _ = verdict(home)
    assert (state, "missing" in found, JOB in found) == ("failed", True, True)


def test_doctor_names_a_manifest_that_is_missing(home: ServerHome) -> None:
    database = Database(home.database_url(home.config()))
    with database.transaction() as connection:
        connection.execute(update(schema.jobs).values(manifest_sha256="ab" * 32))
    database.close()
    state, found, _ = verdict(home)
    assert (state, "ab" * 32 in found) == ("failed", True)
