"""The room on disk for models and all that is made of them: what was used longest ago goes first."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import structlog

from fwdllm_common.errors import NoRoomError
from fwdllm_common.files import storage_error

_MAY_GO = ("bundles/*", "files/*", "weights/*", "activations/*.activations", "activations/prepared/*")

_log = structlog.get_logger()


class CacheQuota:
    """At most ``limit_bytes`` below ``folder``, and no more than the disk has.

    ``files`` holds downloaded files by SHA-256, a manifest among them for each folder of hard links in ``bundles``;
    ``weights`` the last θ of each job; ``activations`` what the engine keeps. A path's time of change is its last use.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.bundles = folder / "bundles"
        self.weights = folder / "weights"
        self.activations = folder / "activations"
        self._limit_bytes = limit_bytes
        self._in_use: tuple[str, Mapping[Path, int]] = ("", {})

    def beside(self, sizes: Mapping[str, int]) -> int:
        """Bytes that are left for what is made of a bundle whose files have these ``sizes``."""
        return max(0, self._limit_bytes - sum(sizes.values()))

    def make(self, bundle: str, sizes: Mapping[str, int], growing: Mapping[Path, int] | None = None) -> None:
        """Delete until there is room for the ``bundle`` (its SHA-256) whose files, by SHA-256, have these ``sizes``.

        ``growing`` are further paths below the folder and the bytes that each may grow to, until another bundle is
        named; nothing of either goes.

        :raises NoRoomError: all of it together is more than the limit.
        :raises StorageError: something cannot be deleted.
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
        for path in sorted(self._may_go(kept), key=lambda path: path.stat().st_mtime):
            used = bytes_below(self.folder)
            if used + growth <= min(self._limit_bytes, used + shutil.disk_usage(self.folder).free):
                return
            try:
                self._delete(path, kept)
            except OSError as error:
                raise storage_error(path, error) from error
            _log.info("deleted, as used longest ago", path=str(path), bytes=used - bytes_below(self.folder))

    def _may_go(self, kept: Collection[Path]) -> Iterator[Path]:
        """Everything but ``kept``, and files that go with the last bundle that has them."""
        for path in (path for pattern in _MAY_GO for path in self.folder.glob(pattern)):
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
    """Bytes of a file, or of all files below a folder; 0 if there is neither. A file with several names counts once."""
    files = {(stat := file.stat()).st_ino: stat.st_size for file in (path, *path.rglob("*")) if file.is_file()}
    return sum(files.values())


def _part(path: Path) -> Path:
    """Where the file is while it is downloaded."""
    return path.with_name(f"{path.name}.part")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}"
