"""Providers whose library ended the process: they are not tried again."""

from __future__ import annotations

from pathlib import Path

from fwdllm_client.engine.sessions import Provider, Session
from fwdllm_common.errors import BadInputError, StorageError
from fwdllm_common.files import make_folder, write_atomically
from fwdllm_common.manifest import Stage


class Crashes:
    """What was being tried, in ``file``, until it is known that the process survived it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = set(file.read_text().split()) if file.exists() else set()

    def watched(self, provider: Provider) -> Provider:
        """``provider``, noted as being tried as soon as it opens a session; refused if it crashed before."""
        return _Watched(provider, self)

    def trying(self, name: str) -> None:
        """Note that the process may end now.

        :raises BadInputError: it did, the last time.
        """
        if name in self._before:
            raise BadInputError("it ended the process when it was tried before")
        self._write({*self._before, name})

    def none(self) -> None:
        """What was being tried did no harm."""
        self._write(self._before)

    def _write(self, names: set[str]) -> None:
        try:
            if names:
                make_folder(self._file.parent)
                write_atomically(self._file, "\n".join(sorted(names)).encode())
            else:
                self._file.unlink(missing_ok=True)
        except (StorageError, OSError):  # a disk that cannot be written keeps no tunings either
            return


class _Watched:
    def __init__(self, provider: Provider, crashes: Crashes) -> None:
        self.name = provider.name
        self._provider = provider
        self._crashes = crashes

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        self._crashes.trying(self.name)
        return self._provider.open(folder, stage, threads)
