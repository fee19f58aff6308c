"""The round machine: asks the current phase to go on, one transaction at a time.

selecting → assigned → collecting → committing → committed, or abandoned; where too few fetch their assignments it is
selected again. Before the first round there may be an initialising one. The coordinator may die between any two
statements: the next start goes on from what was committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


class RoundMachine:
    """Drives the rounds of one job, by the right of a ``lease`` where others might drive it too."""

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
        """One step of the current phase, durable when this returns; ``now`` is seconds since 1970.

        With ``defer``, a step that needs a long computation undoes what it did and says what is due.

        :raises LeaseLostError: the job is somebody else's by now; nothing was done.
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
        if step.state is not None:
            self._job.go_on_from(step.state)
        return step
