"""Which devices are here: the memory of recent check-ins, rebuilt within seconds of a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwdllm_common.job_choice import JobChoice
from fwdllm_common.task import CLASSIFICATION, Task


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


class Presence:
    """The last check-in of each device; a device counts as present for ``window_s`` seconds after it."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._present: dict[str, Present] = {}

    def seen(self, device: Present) -> None:
        """A device checked in."""
        self._present[device.device_id] = device

    def leave(self, device_id: str) -> None:
        """A device is known to be gone, or busy."""
        self._present.pop(device_id, None)

    def eligible(
        self,
        job: str,
        labels: Sequence[str],
        now: float,
        capability: str | None = None,
        task: Task = CLASSIFICATION,
    ) -> list[str]:
        """The present devices with ``capability`` that can take part in the job of this name, in a fixed order.

        Their data is for its ``task`` and has no other labels than ``labels``, and their owners allow the job.
        """
        known = frozenset(labels)
        return sorted(
            device.device_id
            for device in list(self._present.values())  # devices are revoked in another thread
            if device.at >= now - self._window_s
            and device.task == task
            and device.labels <= known
            and device.jobs.allows(job)
            and (capability is None or capability in device.capabilities)
        )
