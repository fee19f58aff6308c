"""GetArtifact and GetWeights: the model bundle by hash, the weights by version."""

from __future__ import annotations

import hashlib

import grpc
import pytest
from helpers.serving import ScriptedDevice, Serving, everything, refusal
from server.rpc.loopback import device_identity

from fwdllm.v1.device_pb2 import ArtifactChunk, GetArtifactRequest, GetWeightsRequest, WeightsChunk
from fwdllm.v1.device_pb2_grpc import DeviceServiceStub
from fwdllm.v1.ledger_pb2 import LedgerSegment
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.manifest import BundleFile, Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.rounds.training import TrainingJob

WRONG_STATE = (grpc.StatusCode.FAILED_PRECONDITION, "wrong-state")


async def download(device: ScriptedDevice, sha256: bytes, offset: int = 0) -> list[ArtifactChunk]:
    return await everything(device.service.GetArtifact(GetArtifactRequest(sha256=sha256, offset=offset)))


async def weights(device: ScriptedDevice, **request: object) -> tuple[int, bytes]:
    chunks = await everything(device.service.GetWeights(GetWeightsRequest(**request)))
    (kind,) = {chunk.kind for chunk in chunks}
    return kind, b"".join(chunk.data for chunk in chunks)


@pytest.fixture
async def manifest(device: ScriptedDevice) -> Manifest:
    """As a device gets it."""
    work = await device.assignment()
    return Manifest.from_bytes(b"".join(chunk.data for chunk in await download(device, work.manifest_sha256)))


@pytest.fixture
def largest(manifest: Manifest) -> BundleFile:
    return max(manifest.files, key=lambda file: file.bytes)


async def test_every_file_of_the_manifest_arrives_whole(device, manifest):
    for file in manifest.files:
        chunks = await download(device, bytes.fromhex(file.sha256))
        data = b"".join(chunk.data for chunk in chunks)
        assert hashlib.sha256(data).hexdigest() == file.sha256
        assert {chunk.total_bytes for chunk in chunks} == {file.bytes} == {len(data)}


async def test_a_download_that_goes_on_from_an_offset_is_the_rest_of_the_file(device, largest):
    sha256 = bytes.fromhex(largest.sha256)
    (whole,) = await download(device, sha256)
    (rest,) = await download(device, sha256, offset=1000)

    assert whole.data[:1000] + rest.data == whole.data
    assert rest.total_bytes == largest.bytes


@pytest.mark.parametrize("beyond", [0, 1, 2**62])
async def test_from_the_end_on_there_is_nothing_to_send(device, largest, beyond):
    assert await download(device, bytes.fromhex(largest.sha256), offset=largest.bytes + beyond) == []


async def test_a_file_of_no_running_job_is_not_found(device):
    await device.assignment()
    status, reason, words = await refusal(download(device, b"x" * 32))

    assert (status, reason) == (grpc.StatusCode.NOT_FOUND, "not-found")
    assert words == f"no running job has the file {(b'x' * 32).hex()}"


async def test_what_is_no_hash_is_refused(device):
    status, reason, words = await refusal(download(device, b"x" * 100_000))

    assert (status, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")
    assert words == "sha256 has 100000 bytes; 32 are allowed"


async def test_a_snapshot_is_no_artifact_for_devices(server, device):
    (job,) = server.coordinator.training.values()
    status, _, _ = await refusal(download(device, hashlib.sha256(job.state.to_bytes()).digest()))

    assert status is grpc.StatusCode.NOT_FOUND


def state_from(job: TrainingJob, snapshot: bytes) -> ModelState:
    return ModelState.from_bytes(job.header, job.manifest.layout, snapshot)


async def at_version_1(server: Serving, device: ScriptedDevice) -> TrainingJob:
    """The job after its first round."""
    await device.finish(await device.assignment())
    await server.until(lambda job: job.version == 1)
    (job,) = server.coordinator.training.values()
    return job


async def test_a_new_device_gets_a_snapshot(server, device):
    work = await device.assignment()
    kind, data = await weights(device, job_id=work.job_id, version=0)
    (job,) = server.coordinator.training.values()

    assert kind == WeightsChunk.KIND_SNAPSHOT
    assert state_from(job, data).digest == work.theta_digest


async def test_a_device_one_version_behind_gets_the_ledger_and_comes_to_the_same_weights(server, device):
    work = await device.assignment()
    _, snapshot = await weights(device, job_id=work.job_id, version=0)
    job = await at_version_1(server, device)
    kind, data = await weights(device, job_id=job.id, version=1, has_version=True, held_version=0)
    state = state_from(job, snapshot)
    for entry in LedgerSegment.FromString(data).entries:
        state.advance(LedgerEntry.from_message(entry))

    assert kind == WeightsChunk.KIND_LEDGER
    assert len(data) < len(snapshot)
    assert (await device.assignment()).theta_digest == state.digest


async def test_a_ledger_larger_than_a_snapshot_is_not_sent(server, device, monkeypatch):
    job = await at_version_1(server, device)
    monkeypatch.setattr("fwdllm_server.store.ledger.entries", lambda *_: [bytes(1 << 20)])
    kind, data = await weights(device, job_id=job.id, version=1, has_version=True, held_version=0)

    assert kind == WeightsChunk.KIND_SNAPSHOT
    assert state_from(job, data).version == 1


async def test_a_device_that_is_up_to_date_gets_an_empty_ledger(device):
    work = await device.assignment()
    kind, data = await weights(device, job_id=work.job_id, version=0, has_version=True, held_version=0)

    assert (kind, data) == (WeightsChunk.KIND_LEDGER, b"")


async def test_a_device_that_claims_a_version_of_the_future_gets_a_snapshot(device):
    work = await device.assignment()
    kind, _ = await weights(device, job_id=work.job_id, version=0, has_version=True, held_version=2**64 - 1)

    assert kind == WeightsChunk.KIND_SNAPSHOT


@pytest.mark.parametrize("version", [1, 2**64 - 1])
async def test_only_the_version_of_the_round_is_served(device, version):
    work = await device.assignment()
    status, reason, words = await refusal(weights(device, job_id=work.job_id, version=version))

    assert (status, reason, words) == (*WRONG_STATE, "job tiny is at version 0; check in again")


async def test_a_job_that_does_not_run_has_no_weights(device):
    status, reason, words = await refusal(weights(device, job_id="nobody", version=0))

    assert (status, reason, words) == (*WRONG_STATE, "job nobody is not running")


async def test_a_device_that_is_not_enrolled_gets_neither(server):
    identity = device_identity(server.authority, "stranger")
    stranger = ScriptedDevice("stranger", DeviceServiceStub(await server.channel(server.device_address, *identity)))
    for call in (download(stranger, b"x" * 32), weights(stranger, job_id="x", version=0), stranger.check_in()):
        status, reason, _ = await refusal(call)
        assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "not-enrolled")
