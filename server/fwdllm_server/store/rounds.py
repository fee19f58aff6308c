"""The stored rounds: the round machine drives the newest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, func, select, update

from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.algorithm.plan import plans_from_json, plans_to_json
from fwdllm_server.store.schema import rounds


class Phase(StrEnum):
    """The phases of a round (DESIGN §8); the first is round 0's alone."""

    INITIALISING = "initialising"
    SELECTING = "selecting"
    ASSIGNED = "assigned"
    COLLECTING = "collecting"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


@dataclass(frozen=True)
class RoundRecord:
    """One round: its phase and the start of that (seconds since 1970), the version it measures at, and its plan."""

    job_id: str
    number: int
    phase: Phase
    phase_since: float
    version: int
    plan: tuple[BlockPlan, ...]
    variance: float
    variance_threshold: float
    reason: str

    def devices_for(self, seed: int) -> int:
        """Return the number of devices that the round asks to measure a direction."""
        return next((p.devices_per_direction for p in self.plan if p.first_seed <= seed < p.end_seed), 1)


def begin(
    connection: Connection, job_id: str, number: int, version: int, now: float, phase: Phase = Phase.SELECTING
) -> None:
    """Open a round in its first phase."""
    connection.execute(
        rounds.insert().values(job_id=job_id, number=number, phase=phase, phase_since=now, version=version)
    )


def latest(connection: Connection, job_id: str) -> RoundRecord | None:
    """Return the newest round of a job, None before the first."""
    query = select(rounds).where(rounds.c.job_id == job_id).order_by(rounds.c.number.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    return RoundRecord(**{**values, "phase": Phase(values["phase"]), "plan": plans_from_json(values["plan"])})


def enter(connection: Connection, record: RoundRecord, phase: Phase, now: float, reason: str = "") -> None:
    """Move a round to its next phase."""
    _update(connection, record, phase=phase, phase_since=now, reason=reason)


def set_plan(connection: Connection, record: RoundRecord, plan: tuple[BlockPlan, ...]) -> None:
    """Record the plan of a round."""
    if plan != record.plan:
        _update(connection, record, plan=plans_to_json(plan))


def set_variance(connection: Connection, record: RoundRecord, variance: float, threshold: float) -> None:
    """Record the pacing statistic that was last computed."""
    _update(connection, record, variance=variance, variance_threshold=threshold)


def set_reason(connection: Connection, record: RoundRecord, reason: str) -> None:
    """Record what the round waits for; the same reason again is not written."""
    if reason != record.reason:
        _update(connection, record, reason=reason)


def count_in(connection: Connection, job_id: str, phase: Phase, since: float = 0.0) -> int:
    """Return the number of rounds of a job in a phase that they entered at ``since`` (seconds since 1970) or later."""
    query = select(func.count()).where(
        rounds.c.job_id == job_id, rounds.c.phase == phase, rounds.c.phase_since >= since
    )
    return int(connection.execute(query).scalar_one())


def abandoned_in_a_row(connection: Connection, job_id: str) -> int:
    """Return the number of rounds abandoned since the last one that committed."""
    last = select(func.coalesce(func.max(rounds.c.number), 0)).where(
        rounds.c.job_id == job_id, rounds.c.phase == Phase.COMMITTED
    )
    query = select(func.count()).where(
        rounds.c.job_id == job_id,
        rounds.c.phase == Phase.ABANDONED,
        rounds.c.number > last.scalar_subquery(),
    )
    return int(connection.execute(query).scalar_one())


def _update(connection: Connection, record: RoundRecord, **values: object) -> None:
    connection.execute(
        update(rounds).where(rounds.c.job_id == record.job_id, rounds.c.number == record.number).values(**values)
    )
