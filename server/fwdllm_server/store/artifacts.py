"""The content-addressed files: the name of each is its SHA-256, so a damaged file is detected."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import sha256_of, storage_error, sync, write_atomically

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The artifacts of one store, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store ``data`` and return its SHA-256, hex.

        :raises StorageError: the disk is full or cannot be written.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not is_whole(self.path(sha256), sha256):
            write_atomically(self.path(sha256), data)
        return sha256

    def put_file(self, path: Path) -> str:
        """Store a file that is not written to any more, as a hard link where possible; return its SHA-256, hex.

        :raises StorageError: the disk is full or cannot be written.
        """
        sha256 = sha256_of(path)
        target = self.path(sha256)
        if not (target.exists() and target.samefile(path)) and not is_whole(target, sha256):
            _link(path, target)
        return sha256

    def give(self, sha256: str, path: Path) -> None:
        """Put the artifact at ``path`` too, as a hard link where possible.

        :raises StorageError: the disk is full or cannot be written.
        """
        _link(self.path(sha256), path)

    def get(self, sha256: str) -> bytes:
        """Return the content of an artifact.

        :raises BadInputError: there is no such artifact.
        :raises IntegrityError: the file has changed since it was put there.
        """
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise BadInputError(f"artifact {sha256} is not in {self._folder}; restore it from a backup") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"artifact {sha256} in {self._folder} is damaged; restore it from a backup")
        return data

    def remove(self, sha256: str) -> None:
        """Delete an artifact that nothing refers to, if its file can be deleted."""
        with suppress(OSError):
            self.path(sha256).unlink()

    def path(self, sha256: str) -> Path:
        """Return the path of the artifact with this hash, whether it exists or not."""
        return self._folder / sha256

    def damaged(self) -> list[str]:
        """Return the names of the artifacts whose content has changed; every file is read."""
        files = [file for file in self._folder.iterdir() if _SHA256.fullmatch(file.name)]
        return sorted(file.name for file in files if not is_whole(file, file.name))


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether there is a file at ``path`` with this hash."""
    try:
        return sha256_of(path) == sha256
    except OSError:  # no file, or one that the disk cannot read
        return False


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where there are no hard links; atomically."""
    temporary = target.with_name(f"{target.name}.{uuid4().hex}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
