from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.cache.artifacts import MAX_MANIFEST_BYTES, ArtifactCache
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.connection.retry import Retry, WorkGoneError
from fwdllm_common.errors import BadInputError, IntegrityError

DATA = bytes(range(256))
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def stop(new_stop):
    return new_stop()


@pytest.fixture
def new_cache(tmp_path, link, stop):
    """Every cache is a new life of the process."""
    return lambda: ArtifactCache(CacheQuota(tmp_path / "cache", 1 << 40), link, Retry(link.address, stop))


@pytest.fixture
def part(tmp_path):
    return tmp_path / "cache" / "files" / f"{SHA256}.part"


def offsets(coordinator):
    return [request.offset for request in coordinator.artifact_requests]


def test_a_file_is_fetched_once(new_cache, coordinator, part, link):
    coordinator.add_file(DATA)
    path = new_cache().fetch(SHA256, len(DATA))
    assert path.read_bytes() == DATA
    assert not part.exists()
    assert new_cache().fetch(SHA256, len(DATA)) == path
    assert offsets(coordinator) == [0]
    assert link.traffic.artifacts > len(DATA)
    assert link.traffic.received == 0


def test_a_cut_stream_is_resumed_where_it_broke(new_cache, coordinator, refuse, stop):
    coordinator.add_file(DATA)

    def cut_twice(request):
        for index, chunk in enumerate(coordinator.artifact(request)):
            if index == 4 and len(coordinator.artifact_requests) < 3:
                raise refuse(StatusCode.UNAVAILABLE, "cut")
            yield chunk

    coordinator.on_artifact = cut_twice
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == [0, 64, 128]
    assert len(stop.waits) == 2


def test_a_stream_that_ends_early_is_resumed(new_cache, coordinator):
    coordinator.add_file(DATA)
    coordinator.on_artifact = lambda request: list(coordinator.artifact(request))[:9]
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == [0, 144]


def test_an_empty_stream_is_asked_for_again(new_cache, coordinator):
    coordinator.add_file(DATA)
    coordinator.on_artifact = lambda request: (
        coordinator.artifact(request) if len(coordinator.artifact_requests) > 2 else ()
    )
    assert new_cache().fetch(SHA256).read_bytes() == DATA


def test_a_restart_resumes_too(new_cache, coordinator, refuse, part):
    coordinator.add_file(DATA)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:100])
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == [100]


@pytest.mark.parametrize("held", [len(DATA), len(DATA) + 5])
def test_a_whole_or_overlong_part_is_judged_by_its_hash(held, new_cache, coordinator, part):
    coordinator.add_file(DATA)
    part.parent.mkdir(parents=True)
    part.write_bytes((DATA + DATA)[:held])
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == ([] if held == len(DATA) else [0])


def test_a_damaged_part_costs_a_second_download(new_cache, coordinator, part):
    coordinator.add_file(DATA)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == [100, 0]


def test_a_wrong_hash_is_never_kept(new_cache, coordinator, part):
    coordinator.files[bytes.fromhex(SHA256)] = bytes(256)
    actual = hashlib.sha256(bytes(256)).hexdigest()
    with pytest.raises(IntegrityError, match=f"{SHA256} and sent {actual}"):
        new_cache().fetch(SHA256, len(DATA))
    assert offsets(coordinator) == [0, 0]
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize("sent", [b"short", DATA + b"long"])
def test_a_wrong_size_is_refused_at_once(sent, new_cache, coordinator, part):
    coordinator.files[bytes.fromhex(SHA256)] = sent
    with pytest.raises(IntegrityError, match=f"{len(DATA)} bytes at most.*{SHA256}"):
        new_cache().fetch(SHA256, len(DATA))
    assert part.stat().st_size == 0


def test_more_than_announced_is_refused(new_cache, coordinator):
    coordinator.on_artifact = lambda request: [device_pb2.ArtifactChunk(data=bytes(300), total_bytes=len(DATA))]
    with pytest.raises(IntegrityError):
        new_cache().fetch(SHA256, len(DATA))


def test_a_huge_manifest_is_refused(new_cache, coordinator):
    coordinator.on_artifact = lambda request: [device_pb2.ArtifactChunk(data=b"x", total_bytes=MAX_MANIFEST_BYTES + 1)]
    with pytest.raises(IntegrityError, match=str(MAX_MANIFEST_BYTES)):
        new_cache().fetch(SHA256)


def test_an_empty_file(new_cache):
    empty = hashlib.sha256(b"").hexdigest()
    assert new_cache().fetch(empty, 0).read_bytes() == b""


def test_a_torn_file_is_noticed_at_the_next_start(new_cache, coordinator):
    coordinator.add_file(DATA)
    path = new_cache().fetch(SHA256, len(DATA))
    path.write_bytes(DATA[:-1] + b"x")
    assert new_cache().fetch(SHA256, len(DATA)).read_bytes() == DATA
    assert offsets(coordinator) == [0, 0]


def test_a_file_is_read_once_in_a_life_unless_it_changes(new_cache, coordinator, monkeypatch):
    coordinator.add_file(DATA)
    cache = new_cache()
    path = cache.fetch(SHA256, len(DATA))
    monkeypatch.setattr("fwdllm_client.cache.artifacts.sha256_of", lambda path: pytest.fail("read again"))
    assert cache.fetch(SHA256, len(DATA)) == path
    monkeypatch.undo()
    path.write_bytes(bytes(256))
    os.utime(path, ns=(1, 1))
    assert cache.fetch(SHA256, len(DATA)).read_bytes() == DATA


def test_a_job_that_has_ended_is_left(new_cache, coordinator, refuse):
    def gone(request):
        raise refuse(StatusCode.NOT_FOUND, "no such file", "not-found")

    coordinator.on_artifact = gone
    with pytest.raises(WorkGoneError):
        new_cache().fetch(SHA256, len(DATA))


def test_a_bundle_has_the_files_under_their_names(new_cache, job, coordinator):
    bundle = new_cache().bundle(job.manifest_sha256)
    assert bundle.manifest == job.manifest
    assert bundle.sha256 == bundle.folder.name == job.manifest_sha256.hex()
    for file in job.manifest.files:
        placed = bundle.folder / file.name
        assert hashlib.sha256(placed.read_bytes()).hexdigest() == file.sha256
        assert placed.stat().st_nlink == 2
    assert len(coordinator.artifact_requests) == 5


def test_a_damaged_bundle_is_repaired(new_cache, job):
    bundle = new_cache().bundle(job.manifest_sha256)
    (bundle.folder / "body.onnx").write_bytes(b"torn")
    (bundle.folder / "head.onnx").unlink()
    (bundle.folder / "head.onnx").write_bytes(b"somebody else's")
    bundle = new_cache().bundle(job.manifest_sha256)
    for file in job.manifest.files:
        assert hashlib.sha256((bundle.folder / file.name).read_bytes()).hexdigest() == file.sha256


def test_without_hard_links_files_are_copied(new_cache, job, monkeypatch):
    def refused(self, target):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    bundle = new_cache().bundle(job.manifest_sha256)
    assert (bundle.folder / "body.onnx").stat().st_nlink == 1
    (bundle.folder / "body.onnx").write_bytes(b"torn")
    assert new_cache().bundle(job.manifest_sha256).folder.joinpath("body.onnx").read_bytes() != b"torn"


def test_a_manifest_of_another_format_is_refused(new_cache, coordinator):
    sha256 = coordinator.add_file(b'{"format": 99}').digest()
    with pytest.raises(BadInputError, match="update fwdllm"):
        new_cache().bundle(sha256)
