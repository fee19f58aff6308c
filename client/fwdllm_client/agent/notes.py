"""Notes of a running agent for ``fwdllm-client status``: why it has no work, and which jobs failed."""

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
"""Most failed jobs that are kept; the oldest go first."""
_MOST_CHARACTERS = 500

_log = structlog.get_logger()


@dataclass(frozen=True)
class Failed:
    """A job that failed or was refused on this device, ``times`` in all, last at ``at`` (seconds since 1970 UTC)."""

    job: str
    code: str
    why: str
    at: float
    times: int = 1


@dataclass(frozen=True)
class Notes:
    """The state of the agent.

    ``waits_for`` is the coordinator's reason for having no work, empty while there is work; ``since`` is when that
    began (seconds since 1970 UTC); ``failed`` maps the names of jobs to their failures.
    """

    waits_for: str = ""
    since: float = 0.0
    failed: dict[str, Failed] = field(default_factory=dict)


class NotesFile:
    """The notes in the file ``path``. If the disk cannot be written, only the notes are lost.

    :param clock: seconds since 1970 UTC.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._notes = self.read()

    def read(self) -> Notes:
        """Return the notes in the file; empty ones if it is missing or damaged."""
        try:
            value = json.loads(self._path.read_bytes())
            failed = {str(job): Failed(**each) for job, each in value["failed"].items()}
            return Notes(str(value["waits_for"]), float(value["since"]), failed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Notes()

    def waits(self, why: str) -> None:
        """Note the reason for having no work; an empty text means that there is work."""
        if self._notes.waits_for != (why := _plain(why)):
            self._write(replace(self._notes, waits_for=why, since=self._clock()))

    def failed(self, job: str, code: str, why: str) -> None:
        """Note that work for the job of this name failed."""
        before = self._notes.failed.get(job := _plain(job))
        new = Failed(job, code, _plain(why), self._clock(), 1 + (before.times if before else 0))
        others = {name: each for name, each in self._notes.failed.items() if name != job}
        self._write(replace(self._notes, failed=dict([*others.items(), (job, new)][-MOST_JOBS:])))

    def did(self, job: str) -> None:
        """Note that work for the job of this name succeeded, which clears its failure."""
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
    """Replace control characters in a text from the coordinator, so that it cannot control the owner's terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)[:_MOST_CHARACTERS]
