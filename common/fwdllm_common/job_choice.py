"""In which of its coordinator's jobs a device takes part; its owner chooses, and both sides go by it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from fwdllm.v1 import device_pb2

MAX_JOB_NAMES, MAX_JOB_NAME = 256, 64
"""Most names in a choice, and characters of one."""


@dataclass(frozen=True)
class JobChoice:
    """All jobs but ``names``, or with ``only`` none but ``names``."""

    only: bool = False
    names: Set[str] = frozenset()

    @classmethod
    def from_message(cls, message: device_pb2.JobChoice) -> JobChoice:
        """The choice as it comes over the wire; an absent one is all jobs."""
        return cls(message.only, frozenset(message.names))

    def to_message(self) -> device_pb2.JobChoice:
        """The choice as it goes over the wire."""
        return device_pb2.JobChoice(only=self.only, names=sorted(self.names))

    def allows(self, name: str) -> bool:
        """Whether the device takes part in the job of this name."""
        return (name in self.names) == self.only

    def allow(self, name: str) -> JobChoice:
        """The same, and the job of this name."""
        return replace(self, names=self.names | {name} if self.only else self.names - {name})

    def deny(self, name: str) -> JobChoice:
        """The same without the job of this name."""
        return replace(self, names=self.names - {name} if self.only else self.names | {name})
