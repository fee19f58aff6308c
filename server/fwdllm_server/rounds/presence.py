"""The present devices: recent check-ins, in memory, rebuilt within seconds of a restart; and draws among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappop, heappush, nsmallest
from textwrap import shorten

from fwdllm_common.job_choice import JobChoice
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.config.job_sections import DevicesSection

PERIOD_S = 600.0
"""Seconds after which the waiting devices are drawn anew, if there is not room for all."""
_FORGET_EVERY_S = 1.0
_LABELS_SHOWN = 200
"""Largest number of characters of a job's labels in a message to a device."""
_ANY = DevicesSection()


@dataclass(frozen=True, slots=True)
class Present:
    """A device that checked in at ``at`` (seconds since 1970), with the properties that decide its eligibility.

    ``labels`` and ``task`` describe its data, ``jobs`` is the owner's choice of jobs.
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
        self, job: str, labels: frozenset[str], task: str = CLASSIFICATION, needs: DevicesSection = _ANY
    ) -> str:
        """Return why the device cannot take part in the job of this name, or an empty text if it can.

        Its data must be for the ``task`` and have only labels among ``labels``, its owner must allow the job, and it
        must meet what the job ``needs``.
        """
        if self.task != task:
            return f"the job is for {task}, the data of this device is for {self.task}"
        if not self.labels <= labels:
            known = shorten(", ".join(sorted(labels)), _LABELS_SHOWN, placeholder=" …")
            return f"label {min(self.labels - labels)!r} is not one of the job's ({known})"
        if not self.jobs.allows(job):
            return "the owner of this device does not allow the job"
        if self.training_examples < needs.min_examples:
            return f"the job needs {needs.min_examples} rows or more, this device has {self.training_examples}"
        if self.memory_bytes < needs.min_memory_mb << 20:
            return f"the job needs {needs.min_memory_mb} MiB of memory, this device has {self.memory_bytes >> 20}"
        if missing := sorted(set(needs.capabilities) - self.capabilities):
            return f"the job needs the capability {missing[0]!r}, which this device does not have"
        return ""

    def suits(self, job: str, labels: frozenset[str], task: str = CLASSIFICATION, needs: DevicesSection = _ANY) -> bool:
        """Return whether the device can take part in the job of this name (:meth:`why_not`)."""
        return not self.why_not(job, labels, task, needs)


class Presence:
    """The last check-in of each device. A device counts as present for ``window_s`` seconds after it."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._present: dict[str, Present] = {}
        self._period = 0
        self._forgotten_at = 0.0
        self._last: list[tuple[int, str]] = []  # a heap: the top is evicted first, or has left already

    def seen(self, device: Present) -> None:
        """Record a device's check-in."""
        self._present[device.device_id] = device

    def leave(self, device_id: str) -> None:
        """Remove a device that is gone or busy."""
        self._present.pop(device_id, None)

    def admit(self, device: Present, room: int) -> bool:
        """Record a device's check-in, unless ``room`` others have precedence. Return whether it was recorded.

        This is reservoir sampling: all devices that check in during a period have the same chance.
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
        task: str = CLASSIFICATION,
        needs: DevicesSection = _ANY,
    ) -> list[str]:
        """List the present devices that have ``capability`` and can take part in the job of this name, by id."""
        known = frozenset(labels)
        return sorted(
            device.device_id
            for device in list(self._present.values())  # devices are revoked in another thread
            if device.at >= now - self._window_s
            and device.suits(job, known, task, needs)
            and (capability is None or capability in device.capabilities)
        )


def _rank(device_id: str, period: int) -> int:
    """Return a device's rank in a period. The device with the lowest rank is evicted first."""
    return -int.from_bytes(draw_number(device_id, f"presence/{period}"))


def draw(devices: Iterable[str], size: int, worked: Mapping[str, int], draw_key: str) -> list[str]:
    """Draw ``size`` of the ``devices`` (all if there are fewer), in sorted order.

    Each device has a pseudorandom number for ``draw_key``, and the smallest are drawn. The sample is uniform among
    devices with equal values of ``worked`` (assignments today), and does not depend on the order of ``devices``. A
    coordinator that is restarted draws the same devices.
    """
    return sorted(nsmallest(size, devices, key=lambda device: (worked.get(device, 0), draw_number(device, draw_key))))


def draw_number(device: str, draw_key: str) -> bytes:
    """Return a device's pseudorandom number in a draw: 8 uniform bytes."""
    return blake2b(f"{draw_key}/{device}".encode(), digest_size=8).digest()
