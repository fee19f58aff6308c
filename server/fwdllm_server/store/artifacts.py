"""Content-addressed files: a file is called by its SHA-256, so it is right or it is not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import sha256_of, storage_error, sync, write_atomically


class ArtifactStore:
    """The files of one coordinator, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep ``data``; returns its SHA-256, hex.

        :raises StorageError: the disk is full or cannot be written.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.path(sha256).exists():
            write_atomically(self.path(sha256), data)
        return sha256

    def put_file(self, path: Path) -> str:
        """Keep a file that nobody writes to any more, without a copy where the disk allows; returns its SHA-256.

        :raises StorageError: the disk is full or cannot be written.
        """
        sha256 = sha256_of(path)
        target = self.path(sha256)
        if target.exists():
            return sha256
        temporary = self._folder / f"{sha256}.{uuid4().hex}.tmp"
        try:
            try:
                os.link(path, temporary)
            except OSError:
                shutil.copyfile(path, temporary)
            sync(temporary)
            temporary.replace(target)
            sync(self._folder)
        except OSError as error:
            raise storage_error(target, error) from error
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The content.

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
        """Forget an artifact that nobody refers to; one that cannot be removed stays."""
        with suppress(OSError):
            self.path(sha256).unlink()

    def path(self, sha256: str) -> Path:
        """Where the artifact with this hash is, or would be."""
        return self._folder / sha256
