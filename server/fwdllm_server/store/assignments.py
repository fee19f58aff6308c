"""The stored assignments: the directions that each device measures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import fsum, inf
from statistics import median_low

from sqlalchemy import Connection, Row, bindparam, case, func, select, update

from fwdllm.v1 import device_pb2
from fwdllm_common.counts import Counts
from fwdllm_common.seeds import from_messages, seeds_in, total
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.schema import assignments, jobs, rounds

_OPEN = ("offered", "taken")
_COUNTING = (*_OPEN, "returned")
_DROPPED = ("returned", "expired", "unusable")
MOST_ROWS = 2
"""The weight of a device's federated evaluation, at most, as a multiple of the median number of validation rows."""


class AssignmentState(StrEnum):
    """The state of an assignment: offered and taken ones are open, :data:`LATE` ones accept no more scalars."""

    OFFERED = "offered"
    TAKEN = "taken"
    DONE = "done"
    RETURNED = "returned"  # given back by the device: others measure the rest; scalars that it has reported count
    EXPIRED = "expired"  # nothing was reported in time
    UNUSABLE = "unusable"  # values that are not finite were reported: others measure the rest, its scalars are late
    UNNEEDED = "unneeded"  # the round closed before the device had reported all; its scalars are late


LATE = frozenset((AssignmentState.EXPIRED, AssignmentState.UNUSABLE, AssignmentState.UNNEEDED))
"""The states in which scalars of an assignment are late, though its round may still be open."""


@dataclass(frozen=True)
class AssignmentRecord:
    """The work of one device in one round; ``tasks`` are in the order of its report's indices.

    ``taken_at`` is None until the device fetches it; ``passes`` is its expected cost in example-passes.
    """

    id: str
    job_id: str
    round: int
    device_id: str
    state: AssignmentState
    tasks: tuple[device_pb2.DirectionTask, ...]
    directions: int
    evaluate: bool
    expires_at: float
    taken_at: float | None
    passes: float
    correct: int
    total: int
    f1: float | None

    @property
    def failed(self) -> bool:
        """Whether the device gets no other assignment in the round."""
        return self.state in (AssignmentState.EXPIRED, AssignmentState.UNUSABLE)

    @property
    def open(self) -> bool:
        """Whether the device is to work on the assignment."""
        return self.state in _OPEN

    @property
    def seeds(self) -> list[int]:
        """The seed of each scalar that is not packed, by its index in the report; packed ones come after them."""
        return [seed for task in self.tasks if not task.packed for seed in seeds_in(seeds_of(task))]

    @property
    def packed(self) -> Mapping[int, range]:
        """The seeds of each task that reports packed scalars, by the index of the first in the report."""
        found, index = {}, 0
        for task in self.tasks:
            seeds = seeds_of(task)
            if task.packed:
                found[index] = seeds[0]
            index += total(seeds)
        return found


def seeds_of(task: device_pb2.DirectionTask) -> tuple[range, ...]:
    """Return the seeds of a task, in order."""
    return from_messages(task.seeds)


def directions_of(tasks: Iterable[device_pb2.DirectionTask]) -> int:
    """Return the number of directions of some tasks."""
    return sum(total(seeds_of(task)) for task in tasks)


def offer(
    connection: Connection,
    job_id: str,
    round_number: int,
    device_id: str,
    tasks: Iterable[device_pb2.DirectionTask],
    evaluate: bool,
    expires_at: float,
    passes: float = 0.0,
) -> None:
    """Store an assignment that a device is to fetch at its next check-in."""
    request = device_pb2.Assignment(directions=tasks)
    number = connection.execute(
        select(func.count()).where(assignments.c.job_id == job_id, assignments.c.round == round_number)
    ).scalar_one()
    connection.execute(
        assignments.insert().values(
            id=f"{job_id}-{round_number}-{number + 1}",
            job_id=job_id,
            round=round_number,
            device_id=device_id,
            state=AssignmentState.OFFERED,
            tasks=request.SerializeToString(deterministic=True),
            directions=directions_of(request.directions),
            evaluate=evaluate,
            expires_at=expires_at,
            passes=passes,
        )
    )


def get(connection: Connection, assignment_id: str) -> AssignmentRecord | None:
    """Return the assignment with this id, None if there is none."""
    return by_id(connection, [assignment_id]).get(assignment_id)


_BY_ID = select(assignments).where(assignments.c.id.in_(bindparam("ids", expanding=True)))


def by_id(connection: Connection, assignment_ids: Collection[str]) -> Mapping[str, AssignmentRecord]:
    """Return those of the assignments that are stored, by id."""
    return {row.id: _record(row) for row in connection.execute(_BY_ID, {"ids": list(assignment_ids)})}


def counting_of_device(connection: Connection, device_id: str) -> Sequence[AssignmentRecord]:
    """Return the assignments that a device may still report on, returned ones included, oldest first."""
    query = (
        select(assignments)
        .where(assignments.c.device_id == device_id, assignments.c.state.in_(_COUNTING))
        .order_by(assignments.c.expires_at, assignments.c.id)
    )
    return [_record(row) for row in connection.execute(query)]


_HOLDERS = (
    select(assignments.c.device_id)
    .where(assignments.c.device_id.in_(bindparam("devices", expanding=True)), assignments.c.state.in_(_COUNTING))
    .distinct()
)


def holders(connection: Connection, device_ids: Collection[str]) -> frozenset[str]:
    """Return those of the devices that may still report on an assignment."""
    return frozenset(connection.execute(_HOLDERS, {"devices": list(device_ids)}).scalars())


def of_round(connection: Connection, job_id: str, round_number: int) -> Sequence[AssignmentRecord]:
    """Return every assignment of a round."""
    query = (
        select(assignments)
        .where(assignments.c.job_id == job_id, assignments.c.round == round_number)
        .order_by(assignments.c.id)
    )
    return [_record(row) for row in connection.execute(query)]


def offered(connection: Connection, job_id: str) -> Sequence[tuple[str, str]]:
    """Return id and device of each assignment of a job's newest round that is not fetched yet, ordered by id."""
    newest = select(func.max(rounds.c.number)).where(rounds.c.job_id == job_id)
    query = (
        select(assignments.c.id, assignments.c.device_id)
        .where(
            assignments.c.job_id == job_id,
            assignments.c.round == newest.scalar_subquery(),
            assignments.c.state == AssignmentState.OFFERED,
        )
        .order_by(assignments.c.id)
    )
    return [(row.id, row.device_id) for row in connection.execute(query)]


def busy_devices(connection: Connection) -> frozenset[str]:
    """Return the devices that hold an open assignment of a job that runs or whose head is being initialised."""
    query = (
        select(assignments.c.device_id)
        .join(jobs, jobs.c.id == assignments.c.job_id)
        .where(assignments.c.state.in_(_OPEN), jobs.c.state.in_((JobState.PREPARING, JobState.RUNNING)))
        .distinct()
    )
    return frozenset(connection.execute(query).scalars())


def outcomes(connection: Connection, job_id: str, first_round: int) -> tuple[int, int]:
    """Return the numbers of assignments since a round that were done, and that were returned, expired or unusable."""
    dropped = assignments.c.state.in_(_DROPPED)
    done = assignments.c.state == AssignmentState.DONE
    query = select(func.count(case((done, 1))), func.count(case((dropped, 1))))
    found = connection.execute(query.where(assignments.c.job_id == job_id, assignments.c.round >= first_round)).one()
    return int(found[0]), int(found[1])


_MOVED = update(assignments).where(assignments.c.id == bindparam("work")).values(state=bindparam("new"))
_PROLONGED = update(assignments).where(assignments.c.id == bindparam("work")).values(expires_at=bindparam("until"))


def set_state(connection: Connection, assignment_id: str, state: AssignmentState) -> None:
    """Set the state of an assignment."""
    set_states(connection, {assignment_id: state})


def take(connection: Connection, assignment_id: str, now: float) -> None:
    """Record that the device has fetched an assignment."""
    taken = {"state": AssignmentState.TAKEN, "taken_at": now}
    connection.execute(update(assignments).where(assignments.c.id == assignment_id).values(taken))


def set_states(connection: Connection, states: Mapping[str, AssignmentState]) -> None:
    """Set the states of some assignments, in a fixed order so that transactions cannot deadlock."""
    if states:
        connection.execute(_MOVED, [{"work": each, "new": states[each]} for each in sorted(states)])


def prolong(connection: Connection, assignment_id: str, expires_at: float) -> None:
    """Set a later time (seconds since 1970) at which an assignment expires."""
    prolong_all(connection, {assignment_id: expires_at})


def prolong_all(connection: Connection, expiries: Mapping[str, float]) -> None:
    """Set later times at which some assignments expire, in a fixed order as :func:`set_states`."""
    if expiries:
        connection.execute(_PROLONGED, [{"work": each, "until": expiries[each]} for each in sorted(expiries)])


def evaluated(connection: Connection, assignment_id: str, counts: Counts) -> None:
    """Record a device's federated evaluation."""
    connection.execute(update(assignments).where(assignments.c.id == assignment_id).values(counts._asdict()))


def expire_open(connection: Connection, job_id: str, round_number: int, quiet_until: float = inf) -> None:
    """Close every assignment of a round that still counts: from now on its scalars are late.

    Open ones that would expire after ``quiet_until`` become unneeded, as their devices have reported not long ago; the
    others expire.
    """
    own = (assignments.c.job_id == job_id) & (assignments.c.round == round_number)
    at_work = own & assignments.c.state.in_(_OPEN) & (assignments.c.expires_at > quiet_until)
    connection.execute(update(assignments).where(at_work).values(state=AssignmentState.UNNEEDED))
    connection.execute(
        update(assignments).where(own, assignments.c.state.in_(_COUNTING)).values(state=AssignmentState.EXPIRED)
    )


def federated_counts(connection: Connection, job_id: str) -> Counts:
    """Return the result on the devices' own validation rows in the last round that has any.

    The coordinator cannot check a device's number of rows: it counts up to :data:`MOST_ROWS` times the median.
    """
    last = select(func.max(assignments.c.round)).where(assignments.c.job_id == job_id, assignments.c.total > 0)
    query = select(assignments.c.correct, assignments.c.total, assignments.c.f1).where(
        assignments.c.job_id == job_id, assignments.c.round == last.scalar_subquery(), assignments.c.total > 0
    )
    found = [Counts(*row) for row in connection.execute(query)]
    if not found:
        return Counts(0, 0)
    most = MOST_ROWS * median_low(counts.total for counts in found)
    bounded = [_scaled(counts, most) for counts in found]
    f1 = [counts.f1 for counts in bounded if counts.f1 is not None]
    total = sum(counts.total for counts in bounded)
    return Counts(sum(counts.correct for counts in bounded), total, fsum(f1) if f1 else None)


def _scaled(counts: Counts, most: int) -> Counts:
    """Scale the counts down to at most ``most`` predictions."""
    if counts.total <= most:
        return counts
    f1 = None if counts.f1 is None else counts.f1 * most / counts.total
    return Counts(counts.correct * most // counts.total, most, f1)


def _record(row: Row[tuple[object, ...]]) -> AssignmentRecord:
    values = dict(row._mapping)
    tasks = tuple(device_pb2.Assignment.FromString(values["tasks"]).directions)
    return AssignmentRecord(**{**values, "state": AssignmentState(values["state"]), "tasks": tasks})
