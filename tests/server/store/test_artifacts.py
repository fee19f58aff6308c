import errno
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from fwdllm_common.errors import BadInputError, IntegrityError, StorageError
from fwdllm_server.store.artifacts import ArtifactStore

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data" / "artifacts")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prefix.onnx"
    path.write_bytes(DATA)
    return path


def files(store: ArtifactStore) -> list[str]:
    return sorted(path.name for path in store.path(SHA256).parent.iterdir())


def test_bytes_are_called_by_their_hash(store):
    assert store.put(DATA) == SHA256
    assert store.get(SHA256) == DATA
    assert files(store) == [SHA256]


def test_a_file_is_called_by_its_hash_and_stays_where_it_was(store, source):
    assert store.put_file(source) == SHA256
    assert store.get(SHA256) == source.read_bytes() == DATA
    assert files(store) == [SHA256]


def test_the_same_content_is_kept_once(store, source):
    store.put(DATA)
    before = store.path(SHA256).stat()
    store.put(DATA)
    store.put_file(source)

    after = store.path(SHA256).stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)


@pytest.mark.parametrize("again", [lambda store, _: store.put(DATA), lambda store, source: store.put_file(source)])
def test_what_is_put_again_takes_the_place_of_a_damaged_file(store, source, again):
    store.put(DATA)
    store.path(SHA256).write_bytes(DATA[:-1])
    again(store, source)

    assert store.get(SHA256) == DATA


def test_the_damaged_files_are_named_and_nothing_else_is(store, source):
    store.put(b"other")
    store.put_file(source)
    (store.path(SHA256).parent / f"{SHA256}.tmp").write_bytes(b"of a crash")
    assert store.damaged() == []
    source.write_bytes(DATA[:-1])  # the same file where the disk has links

    assert store.damaged() == [SHA256]


def test_an_artifact_outlives_its_source(store, source):
    store.put_file(source)
    source.unlink()

    assert store.get(SHA256) == DATA


def test_a_damaged_file_is_not_given_out(store):
    store.put(DATA)
    store.path(SHA256).write_bytes(DATA[:-1])
    with pytest.raises(IntegrityError, match=f"{SHA256} in .* is damaged; restore it"):
        store.get(SHA256)


def test_it_is_there_for_the_next_process(store):
    store.put(DATA)

    assert ArtifactStore(store.path(SHA256).parent).get(SHA256) == DATA


def test_what_is_not_there_is_told_with_a_remedy(store):
    with pytest.raises(BadInputError, match=f"artifact {SHA256} is not in .*; restore it from a backup"):
        store.get(SHA256)


def test_a_file_on_another_disk_is_copied(store, source, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", no_links)
    store.put_file(source)

    assert store.get(SHA256) == DATA
    assert not store.path(SHA256).samefile(source)


def test_a_copy_that_breaks_off_leaves_no_artifact_and_the_next_try_succeeds(store, source, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EXDEV, "another disk")

    def no_space(_source: Path, target: Path) -> None:
        target.write_bytes(DATA[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        patch.setattr(shutil, "copyfile", no_space)
        with pytest.raises(StorageError, match="no space left"):
            store.put_file(source)
    assert not store.path(SHA256).exists()

    store.put_file(source)
    assert store.get(SHA256) == DATA


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(store, monkeypatch):
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="no space left"):
        store.put(DATA)

    assert files(store) == []


def test_two_jobs_may_take_in_the_same_file_at_once(store, source, monkeypatch):
    """The second begins and ends between two statements of the first."""
    link = os.link

    def link_and_be_overtaken(*paths) -> None:
        monkeypatch.setattr(os, "link", link)
        link(*paths)
        store.put_file(source)

    monkeypatch.setattr(os, "link", link_and_be_overtaken)
    store.put_file(source)

    assert store.get(SHA256) == DATA
    assert files(store) == [SHA256]


@pytest.mark.parametrize(
    "put",
    [
        pytest.param(lambda store, _source: store.put(DATA), id="put"),
        pytest.param(lambda store, source: store.put_file(source), id="put_file"),
    ],
)
def test_content_and_name_are_on_disk_when_it_returns(store, source, monkeypatch, put):
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    put(store, source)

    assert synced == {store.path(SHA256).stat().st_ino, store.path(SHA256).parent.stat().st_ino}
