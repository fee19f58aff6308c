"""Disk cache of stages compiled for this device; an entry is used only if it is complete and unchanged.

Each entry is a folder, named by a hash of everything it depends on, with the SHA-256 of its files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from fwdllm_client.engine.interruption import INTERRUPTION
from fwdllm_common.errors import StorageError
from fwdllm_common.files import sha256_of, sync, write_atomically

_HASHES = "sha256.json"
_PART = ".part"

_log = structlog.get_logger()


class CompiledStages:
    """The entries below ``folder``, together at most ``limit_bytes``; the least recently used are deleted first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self.limit_bytes = limit_bytes
        self._intact: set[Path] = set()
        self._given_up: set[Path] = set()

    def path(self, key: str) -> Path:
        """Return the path of the entry ``key``, whether or not it exists."""
        return self._folder / key

    def get(self, key: str, size: int, make: Callable[[Path], None]) -> Path | None:
        """Return the folder of the entry ``key``; if it is missing or damaged, ``make`` fills an empty folder.

        ``size`` is the most bytes that the files take. The result is None if there is no space or ``make`` failed,
        which is logged and not tried again in this process.
        """
        target = self.path(key)
        try:
            if self._is_intact(target):
                _log.debug("compiled stage is in the cache", path=str(target))
            elif size > self.limit_bytes or target in self._given_up:
                return None
            else:
                _log.debug("compiled stage is not in the cache, compiling it", path=str(target))
                self._make(target, size, make)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            if INTERRUPTION.is_set:  # not a failure of the stage
                raise
            self.give_up(key, error)
            return None
        return target

    def give_up(self, key: str, error: Exception) -> None:
        """Delete the entry ``key``, which cannot be used, and do not make it again in this process."""
        shutil.rmtree(self.path(key), ignore_errors=True)
        self._intact.discard(self.path(key))
        self._given_up.add(self.path(key))
        _log.warning("a stage is not kept as compiled for this device", reason=" ".join(str(error).split()))

    def _make(self, target: Path, size: int, make: Callable[[Path], None]) -> None:
        self._make_room(target, size)
        part = target.with_name(target.name + _PART)
        part.mkdir(parents=True)
        try:
            make(part)
            hashes = {path.name: sha256_of(path) for path in part.iterdir()}
            for name in hashes:
                sync(part / name)
            write_atomically(part / _HASHES, json.dumps(hashes).encode())
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._intact.add(target)
        _log.info("a stage is compiled for this device", bytes=_bytes_of(target))

    def _is_intact(self, target: Path) -> bool:
        """Return whether every file has its recorded hash; files are read once per process."""
        if target in self._intact and target.exists():
            return True
        try:
            hashes = json.loads((target / _HASHES).read_bytes())
            intact = bool(hashes) and all(sha256_of(target / name) == sha256 for name, sha256 in hashes.items())
        except (OSError, ValueError, AttributeError, TypeError):
            return False
        if intact:
            target.touch()
            self._intact.add(target)
        return intact

    def _make_room(self, target: Path, size: int) -> None:
        """Delete incomplete entries, then the least recently used ones, until ``size`` bytes fit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for part in self._folder.glob(f"*{_PART}"):
            shutil.rmtree(part)
        self._intact = {path for path in self._intact if path.exists()}
        left = self.limit_bytes - size - sum(map(_bytes_of, self._intact))
        if left < 0 or shutil.disk_usage(self._folder).free < size:
            raise StorageError(f"no room for {size} more bytes in {self._folder}")
        others = [path for path in self._folder.iterdir() if path.is_dir() and path not in {target, *self._intact}]
        for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            left -= _bytes_of(other)
            if left < 0:
                shutil.rmtree(other)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
