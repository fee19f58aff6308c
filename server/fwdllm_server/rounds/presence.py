"""Which devices are here: the memory of recent check-ins, rebuilt within seconds of a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from textwrap import shorten

from fwdllm_common.job_choice import JobChoice
from fwdllm_common.task import CLASSIFICATION, Task
from fwdllm_server.config.job import DevicesSection
from fwdllm_server.rounds.draw import lot

PERIOD_S = 600.0
"""Seconds after which those who wait for work are drawn anew, where there is not room for all."""
_FORGET_EVERY_S = 1.0
_LABELS_SHOWN = 200
"""Characters of a job's labels that a device is told."""
_ANY = DevicesSection()


@dataclass(frozen=True, slots=True)
class Present:
    """A device that checked in at ``at``, with the labels of its data, what it can or may do, and for which jobs.

    ``task`` is what its data is for.
    """

    device_id: str
    at: float
    labels: frozenset[str]
    capabilities: frozenset[str] = frozenset()
    jobs: JobChoice = JobChoice()  # noqa: RUF009 - frozen
    task: str = CLASSIFICATION
    training_examples: int = 0
    memory_bytes: int = 0

    def why_not(
        self, job: str, labels: frozenset[str], task: Task = CLASSIFICATION, needs: DevicesSection = _ANY
    ) -> str:
        """What keeps it from the job of this name; empty if it can take part.

        Its data has to be for the ``task`` and have no other labels than ``labels``, its owner to allow the job, and
        itself to have what the job ``needs``.
        """
        if self.task != task:
            return f"it is for {task}, the data of this device for {self.task}"
        if not self.labels <= labels:
            known = shorten(", ".join(sorted(labels)), _LABELS_SHOWN, placeholder=" …")
            return f"label {min(self.labels - labels)!r} is not one of its ({known})"
        if not self.jobs.allows(job):
            return "the owner of this device does not allow it"
        if self.training_examples < needs.min_examples:
            return f"it wants {needs.min_examples} rows or more, this device has {self.training_examples}"
        if self.memory_bytes < needs.min_memory_mb << 20:
            return f"it wants {needs.min_memory_mb} MiB of memory, this device has {self.memory_bytes >> 20}"
        if missing := sorted(set(needs.capabilities) - self.capabilities):
            return f"it wants the capability {missing[0]!r}, which this device has not"
        return ""

    def suits(
        self, job: str, labels: frozenset[str], task: Task = CLASSIFICATION, needs: DevicesSection = _ANY
    ) -> bool:
        """Whether nothing keeps it from the job of this name; see :meth:`why_not`."""
        return not self.why_not(job, labels, task, needs)


class Presence:
    """The last check-in of each device; a device counts as present for ``window_s`` seconds after it."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._present: dict[str, Present] = {}
        self._period = 0
        self._forgotten_at = 0.0
        self._last: list[tuple[int, str]] = []  # a heap: on top who is the first to make room, or has left by now

    def seen(self, device: Present) -> None:
        """A device checked in."""
        self._present[device.device_id] = device

    def leave(self, device_id: str) -> None:
        """A device is known to be gone, or busy."""
        self._present.pop(device_id, None)

    def admit(self, device: Present, room: int) -> bool:
        """A device checked in, and is here unless there are ``room`` others that were drawn before it.

        A reservoir: of all that check in during a period any has the same chance.
        """
        if int(device.at // PERIOD_S) != self._period:
            self._period = int(device.at // PERIOD_S)
            self._last = [(_rank(each, self._period), each) for each in list(self._present)]
            self._last.sort()
        if device.device_id not in self._present:
            if len(self._present) >= room and device.at >= self._forgotten_at + _FORGET_EVERY_S:
                self._forget_absent(device.at)
            if len(self._present) >= room and not self._make_room(device, room):
                return False
            heappush(self._last, (_rank(device.device_id, self._period), device.device_id))
        self._present[device.device_id] = device
        return True

    def _forget_absent(self, now: float) -> None:
        self._forgotten_at = now
        for each in list(self._present.values()):
            if each.at < now - self._window_s:
                self.leave(each.device_id)

    def _make_room(self, device: Present, room: int) -> bool:
        mine = _rank(device.device_id, self._period)
        while len(self._present) >= room and self._last:
            rank, last = self._last[0]
            if last in self._present and rank >= mine:
                return False
            heappop(self._last)
            self.leave(last)
        return True

    def eligible(
        self,
        job: str,
        labels: Sequence[str],
        now: float,
        capability: str | None = None,
        task: Task = CLASSIFICATION,
        needs: DevicesSection = _ANY,
    ) -> list[str]:
        """The present devices with ``capability`` that can take part in the job of this name, in a fixed order."""
        known = frozenset(labels)
        return sorted(
            device.device_id
            for device in list(self._present.values())  # devices are revoked in another thread
            if device.at >= now - self._window_s
            and device.suits(job, known, task, needs)
            and (capability is None or capability in device.capabilities)
        )


def _rank(device_id: str, period: int) -> int:
    """Lowest for who is the first to make room."""
    return -int.from_bytes(lot(device_id, f"presence/{period}"))
