"""The round machine: runs a job's phases, one transaction for each step.

The phases are selecting → assigned → collecting → committing → committed, or abandoned. If too few devices fetch their
assignments, the round returns to selecting. The first round may follow an initialising one. If the coordinator is
killed at any point, the next start continues from the last committed transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from fwdllm_server.rounds import abandoned, assigned, collecting, committed, committing, initialising, selecting
from fwdllm_server.rounds.computing import ComputationDue, Desk
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.training import MOVED, RoundContext, Step, TrainingJob
from fwdllm_server.store import leases, locks, rounds
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.leases import Lease
from fwdllm_server.store.rounds import Phase

_PHASES = {
    Phase.INITIALISING: initialising.advance,
    Phase.SELECTING: selecting.advance,
    Phase.ASSIGNED: assigned.advance,
    Phase.COLLECTING: collecting.advance,
    Phase.COMMITTING: committing.advance,
    Phase.COMMITTED: committed.advance,
    Phase.ABANDONED: abandoned.advance,
}

_log = structlog.get_logger()


class RoundMachine:
    """Runs the rounds of one job. With several coordinators, it needs the job's ``lease``."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        presence: Presence,
        job: TrainingJob,
        lease: Lease | None = None,
        jobs: Callable[[], Mapping[str, TrainingJob]] = dict,
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._presence = presence
        self._job = job
        self._lease = lease
        self._desk = Desk()
        self._jobs = jobs

    def advance(self, now: float, defer: bool = False) -> Step:
        """Run one step of the current phase. It is durable on return. ``now`` is seconds since 1970.

        With ``defer``, a step that needs a long computation is rolled back, and the result says what to compute.

        :raises LeaseLostError: another coordinator holds the job's lease. Nothing was changed.
        """
        try:
            return self._advance(now, defer)
        except ComputationDue as due:
            return Step(moved=True, due=due.compute)

    def _advance(self, now: float, defer: bool) -> Step:
        with self._database.transaction() as connection:
            if self._lease is not None:
                leases.check(connection, self._lease)
            locks.move_rounds(connection, self._job.id)
            record = rounds.latest(connection, self._job.id)
            if record is None:
                number, phase = (0, Phase.INITIALISING) if self._job.is_draft else (1, Phase.SELECTING)
                rounds.begin(connection, self._job.id, number, self._job.state.version, now, phase)
                return MOVED
            context = RoundContext(
                connection, self._job, record, self._presence, self._artifacts, now, self._desk, defer, self._jobs
            )
            step = _PHASES[record.phase](context)
            latest = rounds.latest(connection, self._job.id) if step.moved else None
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
