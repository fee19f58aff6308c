"""The stored secure aggregation of each open round: its step, its members' messages and, at its end, the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, select, update

from fwdllm_server.store.schema import aggregation_members, aggregations


class Step(StrEnum):
    """The message that is waited for; the values are those of the wire. The last step is that the sum is made."""

    KEYS = "keys"
    SHARES = "shares"
    MASKED = "masked"
    UNMASKING = "unmasking"
    SUMMED = "summed"

    @property
    def next(self) -> Step:
        """The step that follows."""
        steps = list(Step)
        return steps[steps.index(self) + 1]


@dataclass(frozen=True)
class AggregationRecord:
    """One round's aggregation: the step that it is in since ``step_since`` (seconds since 1970), and its sum.

    The sum has the ``weight`` of its members together; it is None until it is made.
    """

    job_id: str
    round: int
    session: bytes
    step: Step
    step_since: float
    sum: bytes | None
    weight: int

    @property
    def mean(self) -> NDArray[np.int64] | None:
        """The weighted mean of the members' fixed-point scalars, int64 ``[length]``, each rounded half up."""
        if self.sum is None:
            return None
        total = np.frombuffer(self.sum, dtype="<i8").astype(np.int64)
        found: NDArray[np.int64] = (2 * total + self.weight) // (2 * self.weight)
        return found


@dataclass(frozen=True)
class MemberRecord:
    """A member and its messages; the ``inbox`` is what it gets for its newest one, None if it is out of the sum."""

    assignment_id: str
    job_id: str
    round: int
    number: int
    weight: int
    keys: bytes | None
    shares: bytes | None
    masked: bytes | None
    unmasking: bytes | None
    inbox: bytes | None

    def message(self, step: Step) -> bytes | None:
        """Return its message of a step, None if there is none."""
        found: bytes | None = getattr(self, step)
        return found

    def is_expected(self, step: Step) -> bool:
        """Whether its message of a step, the current one, is waited for or here."""
        return step is Step.KEYS or self.inbox is not None


def begin(
    connection: Connection,
    job_id: str,
    round_number: int,
    session: bytes,
    weights: Mapping[str, int],
    now: float,
    step: Step = Step.KEYS,
) -> None:
    """Begin the aggregation over these assignments, each with its weight; members are numbered in their order.

    It begins with another ``step`` than keys where all may take part in that.
    """
    place = {"job_id": job_id, "round": round_number}
    connection.execute(aggregations.insert().values(**place, session=session, step=step, step_since=now, weight=0))
    inbox = None if step is Step.KEYS else b""
    connection.execute(
        aggregation_members.insert(),
        [
            {**place, "assignment_id": assignment_id, "number": number, "weight": weight, "inbox": inbox}
            for number, (assignment_id, weight) in enumerate(weights.items())
        ],
    )


def begin_summed(
    connection: Connection, job_id: str, round_number: int, total: NDArray[np.int64], weight: int, now: float
) -> None:
    """Store the sum, int64 ``[length]``, of devices whose scalars the coordinator has seen."""
    place = {"job_id": job_id, "round": round_number, "session": b"", "step": Step.SUMMED, "step_since": now}
    connection.execute(aggregations.insert().values(**place, sum=_bytes(total), weight=weight))


def get(connection: Connection, job_id: str, round_number: int) -> AggregationRecord | None:
    """Return the aggregation of a round, None if there is none."""
    query = select(aggregations).where(aggregations.c.job_id == job_id, aggregations.c.round == round_number)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    return AggregationRecord(**{**values, "step": Step(values["step"])})


def member(connection: Connection, assignment_id: str) -> MemberRecord | None:
    """Return the member with this assignment, None if there is none."""
    query = select(aggregation_members).where(aggregation_members.c.assignment_id == assignment_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else MemberRecord(**row._mapping)


def members(connection: Connection, record: AggregationRecord) -> Sequence[MemberRecord]:
    """Return all members, by number."""
    query = select(aggregation_members).where(_of(record)).order_by(aggregation_members.c.number)
    return [MemberRecord(**row._mapping) for row in connection.execute(query)]


def count(connection: Connection, record: AggregationRecord) -> int:
    """Return the number of members."""
    query = select(func.count()).select_from(aggregation_members).where(_of(record))
    return int(connection.execute(query).scalar_one())


def waiting_for(connection: Connection, record: AggregationRecord) -> Sequence[str]:
    """Return the assignments of the members whose message of the current step is not here."""
    if record.step is Step.SUMMED:
        return []
    query = select(aggregation_members.c.assignment_id).where(_of(record), aggregation_members.c[record.step].is_(None))
    if record.step is not Step.KEYS:
        query = query.where(aggregation_members.c.inbox.is_not(None))
    return list(connection.execute(query).scalars())


def add_message(connection: Connection, assignment_id: str, step: Step, message: bytes) -> None:
    """Store a member's message, its only one of this step."""
    own = aggregation_members.c.assignment_id == assignment_id
    connection.execute(update(aggregation_members).where(own).values({step: message}))


_DELIVER = (
    update(aggregation_members)
    .where(aggregation_members.c.assignment_id == bindparam("work"))
    .values(inbox=bindparam("message"))
)


def enter(connection: Connection, record: AggregationRecord, inboxes: Mapping[str, bytes], now: float) -> None:
    """Begin the step after the record's, in which only the assignments with an inbox take part.

    Whatever others have sent in the record's step, also while it was closing, counts as if it had not come.
    """
    connection.execute(update(aggregation_members).where(_of(record)).values(inbox=None))
    if inboxes:
        connection.execute(_DELIVER, [{"work": work, "message": inboxes[work]} for work in sorted(inboxes)])
    out = _of(record) & aggregation_members.c.inbox.is_(None)
    connection.execute(update(aggregation_members).where(out).values({record.step: None}))
    _update(connection, record, step=record.step.next, step_since=now)


def restart_step(connection: Connection, job_id: str, round_number: int, now: float) -> None:
    """Begin the current step of a round's aggregation, if it has one, again at ``now``."""
    own = (aggregations.c.job_id == job_id) & (aggregations.c.round == round_number)
    connection.execute(update(aggregations).where(own).values(step_since=now))


def add_sum(
    connection: Connection, record: AggregationRecord, total: NDArray[np.int64], weight: int, now: float
) -> None:
    """Store the sum, int64 ``[length]``, of members with this weight together, and forget the members' messages."""
    nothing = dict.fromkeys(("keys", "shares", "masked", "unmasking", "inbox"))
    connection.execute(update(aggregation_members).where(_of(record)).values(nothing))
    _update(connection, record, step=Step.SUMMED, step_since=now, sum=_bytes(total), weight=weight)


def forget(connection: Connection, job_id: str, round_number: int) -> None:
    """Delete the aggregation of a round that has closed or selects again."""
    for table in (aggregation_members, aggregations):
        connection.execute(delete(table).where(table.c.job_id == job_id, table.c.round == round_number))


def _bytes(total: NDArray[np.int64]) -> bytes:
    return total.astype("<i8").tobytes()


def _of(record: AggregationRecord) -> ColumnElement[bool]:
    return (aggregation_members.c.job_id == record.job_id) & (aggregation_members.c.round == record.round)


def _update(connection: Connection, record: AggregationRecord, **values: object) -> None:
    connection.execute(
        update(aggregations)
        .where(aggregations.c.job_id == record.job_id, aggregations.c.round == record.round)
        .values(**values)
    )
