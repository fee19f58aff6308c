"""The round machine: runs a job's phases, one transaction for each step.

The phases are selecting → assigned → collecting → committing → committed, or abandoned. If too few devices fetch their
assignments, the round returns to selecting. The first round may follow an initialising one. If the coordinator is
killed at any point, the next start continues from the last committed transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection

from fwdllm_server.rounds import assigned, collecting, committing, ended, initialising, selecting
from fwdllm_server.rounds.context import MOVED, Computation, RoundContext, Step
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import leases, locks, rounds
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Transactions
from fwdllm_server.store.leases import Lease
from fwdllm_server.store.rounds import Phase, RoundRecord

T = TypeVar("T")

_PHASES: Mapping[Phase, Callable[[RoundContext], Step | Computation[Any]]] = {
    Phase.INITIALISING: initialising.advance,
    Phase.SELECTING: selecting.advance,
    Phase.ASSIGNED: assigned.advance,
    Phase.COLLECTING: collecting.advance,
    Phase.COMMITTING: committing.advance,
    Phase.COMMITTED: ended.after_committed,
    Phase.ABANDONED: ended.after_abandoned,
}

_log = structlog.get_logger()


class RoundMachine:
    """Runs the rounds of one job. With several coordinators, it needs the job's ``lease``."""

    def __init__(
        self,
        store: Transactions,
        artifacts: ArtifactStore,
        presence: Presence,
        job: TrainingJob,
        lease: Lease | None = None,
        jobs: Callable[[], Mapping[str, TrainingJob]] = dict,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._presence = presence
        self._job = job
        self._lease = lease
        self._jobs = jobs

    def advance(self, now: float) -> Step:
        """Run one step of the current phase, with what it computes. It is durable on return.

        :param now: seconds since 1970.
        :raises LeaseLostError: another coordinator holds the job's lease. Nothing was changed.
        """
        found = self.read(now)
        return self.apply(found, found.compute(), now) if isinstance(found, Computation) else found

    def read(self, now: float) -> Step | Computation[Any]:
        """Run one step of the current phase as far as it does not compute anything long; arguments as :meth:`advance`.

        :returns: the step, or what to compute and then to :meth:`apply`.
        """
        with self._store.transaction() as connection:
            record = self._latest(connection)
            if record is None:
                number, phase = (0, Phase.INITIALISING) if self._job.head_uninitialised else (1, Phase.SELECTING)
                rounds.begin(connection, self._job.id, number, self._job.state.version, now, phase)
                return MOVED
            step = _PHASES[record.phase](self._context(connection, record, now))
            latest = self._after(connection, step) if isinstance(step, Step) else None
        return self._done(step, record, latest) if isinstance(step, Step) else step

    def apply(self, computation: Computation[T], result: T, now: float) -> Step:
        """Apply the result of a computation, unless the round has changed meanwhile; arguments as :meth:`advance`."""
        with self._store.transaction() as connection:
            record = self._latest(connection)
            if record != computation.round:
                return MOVED
            step = computation.apply(self._context(connection, record, now), result)
            latest = self._after(connection, step)
        return self._done(step, record, latest)

    def _latest(self, connection: Connection) -> RoundRecord | None:
        """Return the newest round, which nobody else changes until the transaction ends."""
        if self._lease is not None:
            leases.check(connection, self._lease)
        locks.move_rounds(connection, self._job.id)
        return rounds.latest(connection, self._job.id)

    def _context(self, connection: Connection, record: RoundRecord, now: float) -> RoundContext:
        return RoundContext(connection, self._job, record, self._presence, self._artifacts, now, self._jobs)

    def _after(self, connection: Connection, step: Step) -> RoundRecord | None:
        return rounds.latest(connection, self._job.id) if step.moved else None

    def _done(self, step: Step, record: RoundRecord, latest: RoundRecord | None) -> Step:
        """Return a step that is durable, after the model has followed it."""
        if latest is not None:
            _log.debug(
                "phase changed",
                job=self._job.name,
                round=latest.number,
                phase=str(latest.phase),
                was=str(record.phase),
                reason=latest.reason,
            )
        if step.state is not None:
            self._job.go_on_from(step.state)
        return step
