"""The owner's choices by ``fwdllm-client pause``, ``resume`` and ``jobs``, which a running agent applies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fwdllm_common.errors import BadInputError
from fwdllm_common.files import write_atomically
from fwdllm_common.job_choice import JobChoice


@dataclass(frozen=True)
class Choices:
    """Whether the device is ``paused``, and in which ``jobs`` it takes part."""

    paused: bool = False
    jobs: JobChoice = JobChoice()  # noqa: RUF009 - frozen


class ChoicesFile:
    """The choices in the file ``path``, the defaults if there is none.

    :raises BadInputError: on reading, the file is damaged.
    :raises StorageError: on writing, the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._choices = Choices()

    def read(self) -> Choices:
        """Return the present choices; the file is read again only if it has changed."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._choices, self._stamp = _parsed(self._path), stamp
        except FileNotFoundError:
            self._choices, self._stamp = Choices(), None
        return self._choices

    def write(self, choices: Choices) -> None:
        """Replace the choices; they are on disk when this returns."""
        jobs = {"only": choices.jobs.only, "names": sorted(choices.jobs.names)}
        write_atomically(self._path, json.dumps({"paused": choices.paused, "jobs": jobs}, indent=2).encode())


def _parsed(path: Path) -> Choices:
    try:
        value = json.loads(path.read_bytes())
        names = frozenset(map(str, value["jobs"]["names"]))
        return Choices(bool(value["paused"]), JobChoice(bool(value["jobs"]["only"]), names))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path} is damaged ({error}); delete it and choose again") from error
