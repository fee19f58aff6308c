"""The owner's choice of jobs in which a device takes part; coordinator and device both apply it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from fwdllm.v1 import device_pb2

MAX_JOB_NAMES, MAX_JOB_NAME = 256, 64
"""Most names in a choice, and most characters of a name."""


@dataclass(frozen=True)
class JobChoice:
    """All jobs except ``names``; with ``only``, none except ``names``."""

    only: bool = False
    names: Set[str] = frozenset()

    @classmethod
    def from_message(cls, message: device_pb2.JobChoice) -> JobChoice:
        """Parse the wire message; an absent choice means all jobs."""
        return cls(message.only, frozenset(message.names))

    def to_message(self) -> device_pb2.JobChoice:
        """Return the choice as a wire message."""
        return device_pb2.JobChoice(only=self.only, names=sorted(self.names))

    def allows(self, name: str) -> bool:
        """Return whether the device takes part in the job of this name."""
        return (name in self.names) == self.only

    def allow(self, name: str) -> JobChoice:
        """Return this choice with the job of this name added."""
        return replace(self, names=self.names | {name} if self.only else self.names - {name})

    def deny(self, name: str) -> JobChoice:
        """Return this choice with the job of this name excluded."""
        return replace(self, names=self.names - {name} if self.only else self.names | {name})
