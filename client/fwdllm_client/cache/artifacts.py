"""Cache of model bundles' files: downloaded by hash, resumed after an interruption, used only if the hash is right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import CallFailedError, Coordinator
from fwdllm_common.errors import IntegrityError
from fwdllm_common.files import sha256_of, storage_error, sync
from fwdllm_common.manifest import Manifest

MAX_MANIFEST_BYTES = 4 << 20

_log = structlog.get_logger()


@dataclass(frozen=True)
class Bundle:
    """A complete, verified model on disk: ``folder`` holds the manifest's files under their names."""

    sha256: str
    folder: Path
    manifest: Manifest


def _never_cancelled() -> None:
    """Let a download continue."""


class ArtifactCache:
    """Files by SHA-256 and bundles of them, within ``quota``; jobs with the same model share them.

    With ``mirrors``, a file is looked for on the mirror that the coordinator names, and then at the coordinator.
    """

    def __init__(self, quota: CacheQuota, coordinator: Coordinator, retry: Retry, mirrors: bool = True) -> None:
        self._quota = quota
        self._files = quota.files
        self._bundles = quota.bundles
        self._coordinator = coordinator
        self._retry = retry
        self._mirrors = mirrors
        self._intact: dict[Path, tuple[int, int]] = {}

    def bundle(
        self, manifest_sha256: bytes, check_cancelled: Callable[[], None] = _never_cancelled, mirror: str = ""
    ) -> Bundle:
        """Return the bundle whose manifest has this SHA-256; download the files that are missing or damaged.

        ``check_cancelled`` is called after each chunk; its exception ends the download, which can be resumed later.
        ``mirror`` is the URL below which the files are too, or empty.

        :raises IntegrityError: the coordinator sends other bytes than it announced.
        :raises BadInputError: the manifest is not one that this program understands.
        :raises NoRoomError: the model exceeds the owner's disk quota.
        :raises StorageError: the disk is full.
        """
        sha256 = manifest_sha256.hex()
        manifest = Manifest.from_bytes(self.fetch(sha256, None, check_cancelled, mirror).read_bytes())
        self._quota.reserve(sha256, manifest.sizes)
        folder = self._bundles / sha256
        for file in manifest.files:
            self._place(self.fetch(file.sha256, file.bytes, check_cancelled, mirror), folder / file.name, file.sha256)
        folder.touch()
        return Bundle(sha256, folder, manifest)

    def fetch(
        self,
        sha256: str,
        size: int | None = None,
        check_cancelled: Callable[[], None] = _never_cancelled,
        mirror: str = "",
    ) -> Path:
        """Return the path of the file with this SHA-256 (hex); download it if it is missing or damaged.

        ``size`` is in bytes, None for a manifest; the other parameters are as for :meth:`bundle`.
        """
        path = self._files / sha256
        if self._is_intact(path, sha256):
            _log.debug("file is in the cache", sha256=sha256)
            return path
        part = self._files / f"{sha256}.part"
        _log.debug("file is not in the cache, downloading it", sha256=sha256, bytes=size)
        try:
            path.unlink(missing_ok=True)
            self._files.mkdir(parents=True, exist_ok=True)
            if mirror and self._mirrors and self._mirrored(f"{mirror}/{sha256}", part, sha256, size, check_cancelled):
                return self._take(part, path)
            for doubted in (False, True):
                self._retry.call(partial(self._download, part, sha256, size, check_cancelled, doubted))
                actual = sha256_of(part)
                if actual == sha256:
                    return self._take(part, path)
                _log.warning("downloaded file has the wrong hash", expected=sha256, actual=actual)
                part.unlink()
        except OSError as error:
            raise storage_error(part, error) from error
        raise IntegrityError(
            f"the coordinator at {self._coordinator.address} announced a file with SHA-256 {sha256} and sent {actual}, "
            "twice; the file was not used; check the coordinator's artifact store"
        )

    def _mirrored(
        self, url: str, part: Path, sha256: str, size: int | None, check_cancelled: Callable[[], None]
    ) -> bool:
        """Download the file from a mirror, and return whether it is the right one."""
        from fwdllm_client.cache.mirror import MirrorError, download  # an HTTP client costs an idle device memory

        def progressed(received: int) -> None:
            self._coordinator.traffic.artifacts += received
            check_cancelled()

        if size is None:
            part.unlink(missing_ok=True)
        try:
            download(url, part, MAX_MANIFEST_BYTES if size is None else size, progressed)
        except (MirrorError, IntegrityError) as error:
            _log.warning("mirror gives no file, asking the coordinator", reason=str(error))
            return False
        if (actual := sha256_of(part)) == sha256:
            return True
        _log.warning("mirror's file has the wrong hash, asking the coordinator", url=url, actual=actual)
        part.unlink()
        return False

    def _take(self, part: Path, path: Path) -> Path:
        """Keep a complete file, whose hash is right, under its name."""
        part.replace(path)
        sync(self._files)
        self._mark_intact(path)
        return path

    def _download(
        self, part: Path, sha256: str, size: int | None, check_cancelled: Callable[[], None], doubted: bool
    ) -> None:
        """Append the missing bytes to ``part``; an interrupted stream keeps the received bytes for the next attempt."""
        limit = MAX_MANIFEST_BYTES if size is None else size
        with part.open("wb" if size is None else "ab") as file:
            offset = file.tell()
            if size is not None and offset >= size:
                return
            stream = self._coordinator.get_artifact(
                device_pb2.GetArtifactRequest(sha256=bytes.fromhex(sha256), offset=offset, doubted=doubted)
            )
            expected = limit if size is not None else 1
            with ExitStack() as ending:
                ending.callback(stream.cancel)
                for chunk in stream:
                    expected = chunk.total_bytes
                    offset += len(chunk.data)
                    if max(offset, expected) > limit or (size is not None and expected != size):
                        file.truncate(0)
                        raise IntegrityError(
                            f"the coordinator at {self._coordinator.address} announced {limit} bytes at most for the "
                            f"file {sha256} and sends {max(offset, expected)}; check the coordinator's artifact store"
                        )
                    file.write(chunk.data)
                    self._retry.progressed()
                    check_cancelled()
            file.flush()
            os.fsync(file.fileno())
        if offset < expected:
            raise CallFailedError(StatusCode.DATA_LOSS, "", f"the file {sha256} ended after {offset} bytes")

    def _place(self, source: Path, target: Path, sha256: str) -> None:
        """Make ``target`` a hard link to ``source``, or a verified copy where hard links are not supported."""
        if target.exists() and (target.samefile(source) or self._is_intact(target, sha256)):
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, target)
        except OSError as error:
            raise storage_error(target, error) from error
        if not self._is_intact(target, sha256):
            raise IntegrityError(f"{target} differs from the file it was copied from; check this device's disk")

    def _is_intact(self, path: Path, sha256: str) -> bool:
        """Return whether the file has this hash; an unchanged file is read only once per process."""
        if not path.exists():
            return False
        if self._intact.get(path) == _stamp(path):
            return True
        if sha256_of(path) != sha256:
            return False
        self._mark_intact(path)
        return True

    def _mark_intact(self, path: Path) -> None:
        self._intact[path] = _stamp(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
