"""What a phase of a round works with, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from fwdllm_common.replay import ModelState
from fwdllm_server.rounds.failing import failing_devices
from fwdllm_server.rounds.known_answers import noisy_devices
from fwdllm_server.rounds.presence import Presence, draw
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import assignments, job_devices, locks, participation, releases
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.rounds import RoundRecord

T = TypeVar("T")


@dataclass(frozen=True)
class RoundContext:
    """What a phase sees: its transaction, its job and round, the present devices, the artifacts and the time.

    ``now`` is seconds since 1970. ``jobs`` returns all jobs that run, by id.
    """

    connection: Connection
    job: TrainingJob
    round: RoundRecord
    presence: Presence
    artifacts: ArtifactStore
    now: float
    jobs: Callable[[], Mapping[str, TrainingJob]] = dict

    def idle_devices(self, capability: str | None = None) -> list[str]:
        """Return the idle devices here that can take part, those with ``capability`` if one is named."""
        locks.choose_devices(self.connection)
        resting = self.resting_devices().keys()
        unwanted = assignments.busy_devices(self.connection) | self.noisy_devices() | self.failing_devices() | resting
        unwanted |= self.spent_devices()
        manifest, needs = self.job.manifest, self.job.needs
        here = self.presence.eligible(self.job.name, manifest.labels, self.now, capability, manifest.task, needs)
        idle = [device for device in here if device not in unwanted]
        if not needs.per_day:
            return idle
        worked = participation.today(self.connection, idle, self.now)
        return [device for device in idle if worked.get(device, 0) < needs.per_day]

    def draw(self, devices: Sequence[str]) -> list[str]:
        """Draw at most ``max_devices`` of the devices: those that have worked least today, and of equals any."""
        size = self.job.spec.rounds.max_devices
        if len(devices) <= size:
            return list(devices)
        worked = participation.today(self.connection, devices, self.now)
        return draw(devices, size, worked, f"{self.job.header.directions.run_key}/{self.round.number}")

    def resting_devices(self) -> Mapping[str, float]:
        """Return the devices that sent nothing for their last assignments, and for how many seconds they rest."""
        return job_devices.resting(self.connection, self.job.id, self.job.spec.rounds.accept_s, self.now)

    def noisy_devices(self) -> frozenset[str]:
        """Return the devices whose scalars are of no use to this job."""
        return noisy_devices(self.connection, self.job.id, self.now)

    def failing_devices(self) -> frozenset[str]:
        """Return the devices that have said that they cannot do this job."""
        return frozenset(failing_devices(self.connection, self.job.id, self.now))

    def spent_devices(self) -> frozenset[str]:
        """Return the devices that have no privacy budget left; none of a job without differential privacy."""
        budget = self.job.spec.privacy.budget
        return frozenset() if budget is None else releases.spent(self.connection, self.job.id, budget.releases)


@dataclass(frozen=True)
class Step:
    """What a phase did: it moved the round on, or waits.

    A waiting phase is asked again when something happens, or after ``look_again_s``. ``state`` is the model after a
    commit, to be used once the transaction is on disk.
    """

    moved: bool
    look_again_s: float = 0.0
    state: ModelState | None = None
    job_ended: bool = False


@dataclass(frozen=True)
class Computation(Generic[T]):
    """What a phase has to compute before it can move the round on.

    A phase that takes long has three parts, so that nothing waits for it. In a first transaction it *reads* and returns
    this. Outside any transaction, ``compute`` runs on what was read, in any thread. In a second transaction ``apply``
    writes the result, if ``round`` is still as it was read.
    """

    round: RoundRecord
    compute: Callable[[], T]
    apply: Callable[[RoundContext, T], Step]


MOVED = Step(moved=True)


def wait(look_again_s: float) -> Step:
    """Return the step of a phase that has nothing to do yet."""
    return Step(moved=False, look_again_s=max(0.0, look_again_s))
