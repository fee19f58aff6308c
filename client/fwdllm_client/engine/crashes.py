"""Record of execution providers that crashed the process, which are not tried again."""

from __future__ import annotations

from pathlib import Path

from fwdllm_client.engine.sessions import Provider, Session
from fwdllm_common.errors import BadInputError, StorageError
from fwdllm_common.files import make_folder, write_atomically
from fwdllm_common.manifest import Stage


class Crashes:
    """The names of the providers being tried, kept in ``file`` until the process has survived them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = set(file.read_text().split()) if file.exists() else set()

    def watched(self, provider: Provider) -> Provider:
        """Wrap ``provider`` so that it is recorded before it opens a session, and refused if it crashed before."""
        return _Watched(provider, self)

    def trying(self, name: str) -> None:
        """Record that the provider ``name`` is being tried and may crash the process.

        :raises BadInputError: it crashed the process before.
        """
        if name in self._before:
            raise BadInputError("it crashed the process when it was tried before")
        self._write({*self._before, name})

    def survived(self) -> None:
        """Remove the providers that were being tried from the record."""
        self._write(self._before)

    def _write(self, names: set[str]) -> None:
        try:
            if names:
                make_folder(self._file.parent)
                write_atomically(self._file, "\n".join(sorted(names)).encode())
            else:
                self._file.unlink(missing_ok=True)
        except (StorageError, OSError):  # then no tuning can be written either
            return


class _Watched:
    def __init__(self, provider: Provider, crashes: Crashes) -> None:
        self.name = provider.name
        self._provider = provider
        self._crashes = crashes

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        self._crashes.trying(self.name)
        return self._provider.open(folder, stage, threads)
