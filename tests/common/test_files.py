import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from fwdllm_common.errors import StorageError
from fwdllm_common.files import sha256_of, storage_error, write_atomically

OLD = b"old"


@contextmanager
def file_size_limit(limit):
    """A disk that takes no more than ``limit`` bytes a file: the write fails half way, as on a full one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    for data in (b"", b"first", b"second"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert names_in(tmp_path) == ["file"]


def test_a_secret_is_never_readable_by_others(tmp_path):
    path = tmp_path / "key.pem"
    write_atomically(path, b"secret", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with file_size_limit(4096), pytest.raises(StorageError, match=r"file \(File too large\)"):
        write_atomically(path, bytes(10_000))
    assert path.read_bytes() == OLD
    assert names_in(tmp_path) == ["file"]


def test_a_failed_first_write_leaves_no_file(tmp_path):
    with file_size_limit(4096), pytest.raises(StorageError):
        write_atomically(tmp_path / "file", bytes(10_000))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("place", ["missing/file", "plain/file", "n" * 250])
def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path, place):
    (tmp_path / "plain").write_bytes(OLD)
    with pytest.raises(StorageError, match="check the folder's permissions"):
        write_atomically(tmp_path / place, b"new")


def test_a_folder_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "file" / "child").mkdir(parents=True)
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "file", b"new")
    assert names_in(tmp_path) == ["file"]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    program = (
        "import os, sys; from pathlib import Path; from fwdllm_common.files import write_atomically\n"
        "os.fsync = lambda descriptor: os._exit(9)\n"
        "write_atomically(Path(sys.argv[1]), bytes(100_000))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    assert path.read_bytes() == OLD
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path):
    path, failures = tmp_path / "file", []

    def write(data):
        try:
            for _ in range(20):
                write_atomically(path, data)
                assert len(set(path.read_bytes())) == 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(bytes([value]) * 300_000,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(path.read_bytes()) == 300_000
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_apart(tmp_path, code):
    error = storage_error(tmp_path / "ledger", OSError(code, os.strerror(code)))
    assert str(error) == f"no space left to write {tmp_path}/ledger; free some and start again, nothing is lost"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_hash_of_a_file_is_that_of_its_bytes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()
