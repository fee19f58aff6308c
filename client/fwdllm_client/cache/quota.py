"""Disk quota for models and files derived from them; the least recently used files are deleted first."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import structlog

from fwdllm_common.errors import NoRoomError
from fwdllm_common.files import storage_error

_DELETABLE = ("bundles/*", "files/*", "weights/*", "activations/*.activations", "activations/prepared/*")

_log = structlog.get_logger()


class CacheQuota:
    """A quota of ``limit_bytes`` for the files below ``folder``, further limited by the free space of the disk.

    ``files`` holds downloaded files by SHA-256, with one manifest for each folder of hard links in ``bundles``.
    ``weights`` holds the last θ of each job, ``activations`` the engine's caches. The modification time of a path is
    its last use.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.bundles = folder / "bundles"
        self.weights = folder / "weights"
        self.activations = folder / "activations"
        self._limit_bytes = limit_bytes
        self._in_use: tuple[str, Mapping[Path, int]] = ("", {})

    def remaining(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes left for files derived from a bundle whose files have these ``sizes`` in bytes."""
        return max(0, self._limit_bytes - sum(sizes.values()))

    def reserve(self, bundle: str, sizes: Mapping[str, int], growing: Mapping[Path, int] | None = None) -> None:
        """Delete files until the ``bundle`` (its SHA-256) fits, whose files have these ``sizes``, bytes by SHA-256.

        ``growing`` maps further paths below the folder to the bytes that each may grow to; they stay reserved until
        another bundle is named. Neither these paths nor the bundle's files are deleted.

        :raises NoRoomError: bundle and growing paths together exceed the limit.
        :raises StorageError: a file cannot be deleted.
        """
        if growing is not None or bundle != self._in_use[0]:
            self._in_use = bundle, growing or {}
        wanted = {self.files / sha256: size for sha256, size in sizes.items()} | dict(self._in_use[1])
        if sum(wanted.values()) > self._limit_bytes:
            raise NoRoomError(
                f"the model needs {_gb(sum(wanted.values()))} GB of disk, and this device's owner allows "
                f"{_gb(self._limit_bytes)}; raise limit_gb in [cache] of client.toml"
            )
        kept = {*wanted, *map(_part, wanted), self.files / bundle, self.bundles / bundle}
        growth = sum(max(0, size - max(bytes_below(path), bytes_below(_part(path)))) for path, size in wanted.items())
        for path in sorted(self._deletable(kept), key=lambda path: path.stat().st_mtime):
            used = bytes_below(self.folder)
            if used + growth <= min(self._limit_bytes, used + shutil.disk_usage(self.folder).free):
                return
            try:
                self._delete(path, kept)
            except OSError as error:
                raise storage_error(path, error) from error
            _log.info("deleted the least recently used", path=str(path), bytes=used - bytes_below(self.folder))

    def _deletable(self, kept: Collection[Path]) -> Iterator[Path]:
        """Yield all paths except ``kept`` and files of bundles, which are deleted with their last bundle."""
        for path in (path for pattern in _DELETABLE for path in self.folder.glob(pattern)):
            if path not in kept and not (path.parent == self.files and self._is_of_a_bundle(path)):
                yield path

    def _is_of_a_bundle(self, file: Path) -> bool:
        return file.stat().st_nlink > 1 or (self.bundles / file.name).exists()

    def _delete(self, path: Path, kept: Collection[Path]) -> None:
        if not path.is_dir():
            path.unlink()
            return
        linked = {file.stat().st_ino for file in path.iterdir()}
        shutil.rmtree(path)
        if path.parent == self.bundles:
            for file in [file for file in self.files.iterdir() if file not in kept]:
                status = file.stat()
                if file.name == path.name or (status.st_ino in linked and status.st_nlink == 1):
                    file.unlink()


def bytes_below(path: Path) -> int:
    """Return the bytes of a file or of all files below a folder, each inode once; 0 if the path does not exist."""
    files = {(stat := file.stat()).st_ino: stat.st_size for file in (path, *path.rglob("*")) if file.is_file()}
    return sum(files.values())


def _part(path: Path) -> Path:
    """Return the path of the file during its download."""
    return path.with_name(f"{path.name}.part")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}"
