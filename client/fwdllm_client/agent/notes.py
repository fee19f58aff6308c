"""What a running agent leaves for ``fwdllm-client status``: why it has no work, and what it could not do for whom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog

from fwdllm_common.errors import StorageError
from fwdllm_common.files import write_atomically

MOST_JOBS = 64
"""Of more jobs the ones that failed first are forgotten."""
_MOST_CHARACTERS = 500

_log = structlog.get_logger()


@dataclass(frozen=True)
class Failed:
    """A job that this device could not do, or did not want to: so many ``times``, last ``at`` (seconds since 1970)."""

    job: str
    code: str
    why: str
    at: float
    times: int = 1


@dataclass(frozen=True)
class Notes:
    """Why there is no work since ``since``, in the coordinator's words; empty while there is. Jobs by their names."""

    waits_for: str = ""
    since: float = 0.0
    failed: dict[str, Failed] = field(default_factory=dict)


class NotesFile:
    """The notes in the file ``path``, none if there is none. A disk that cannot be written costs the notes alone.

    :param clock: seconds since 1970 UTC.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._notes = self.read()

    def read(self) -> Notes:
        """What is there; a damaged file is as good as none."""
        try:
            value = json.loads(self._path.read_bytes())
            failed = {str(job): Failed(**each) for job, each in value["failed"].items()}
            return Notes(str(value["waits_for"]), float(value["since"]), failed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Notes()

    def waits(self, why: str) -> None:
        """There is no work, and this is why; an empty text says that there is some."""
        if self._notes.waits_for != (why := _plain(why)):
            self._write(replace(self._notes, waits_for=why, since=self._clock()))

    def failed(self, job: str, code: str, why: str) -> None:
        """Work for the job of this name was given up."""
        before = self._notes.failed.get(job := _plain(job))
        new = Failed(job, code, _plain(why), self._clock(), 1 + (before.times if before else 0))
        others = {name: each for name, each in self._notes.failed.items() if name != job}
        self._write(replace(self._notes, failed=dict([*others.items(), (job, new)][-MOST_JOBS:])))

    def did(self, job: str) -> None:
        """Work for the job of this name was done: what kept it from being done is over."""
        if (job := _plain(job)) in self._notes.failed:
            self._write(
                replace(self._notes, failed={name: each for name, each in self._notes.failed.items() if name != job})
            )

    def _write(self, notes: Notes) -> None:
        self._notes = notes
        try:
            write_atomically(self._path, json.dumps(asdict(notes), indent=2).encode())
        except StorageError as error:
            _log.warning("the notes for 'fwdllm-client status' cannot be written", cause=str(error))


def _plain(text: str) -> str:
    """What comes from others must not steer the terminal that shows it."""
    return "".join(character if character.isprintable() else "?" for character in text)[:_MOST_CHARACTERS]
