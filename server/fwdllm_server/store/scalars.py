"""Scalars of rounds that have not closed; the primary key counts each once (DESIGN §2, invariant 4)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from fwdllm_common.estimator import Scalar
from fwdllm_server.store.schema import devices, scalars

_MEASURED = select(scalars.c.seed, scalars.c.device_id).where(
    scalars.c.job_id == bindparam("job"),
    scalars.c.round == bindparam("round"),
    # A stretch and not a list of seeds: what to do with a list PostgreSQL's planner decides by statistics, and of a
    # round that has just begun there are none. It would read the whole round for each statement.
    scalars.c.seed.between(bindparam("least"), bindparam("greatest")),
)
_GAP = 256
"""Seeds between two that are wanted; to read their scalars takes no longer than another statement."""


class NewScalar(NamedTuple):
    """A fixed-point ``value`` as it is stored.

    Where several devices measure each direction, ``copy`` says which of its scalars this is: 0, 1, …
    """

    job_id: str
    round: int
    seed: int
    copy: int
    assignment_id: str
    device_id: str
    value: int


_STORED = (scalars.c.job_id, scalars.c.seed, scalars.c.copy)
_INSERT_ROWS = sqlite.insert(scalars).on_conflict_do_nothing().returning(*_STORED)
# PostgreSQL reads a statement with an array for each column sooner than one with a parameter for each value. The arrays
# are of types without a length: a cast would cut what is longer, and say nothing.
_COLUMNS = [bindparam(column.name, type_=postgresql.ARRAY(type(column.type)())) for column in scalars.c]
_INSERT_ARRAYS = (
    postgresql.insert(scalars)
    .from_select(scalars.c.keys(), select(func.unnest(*_COLUMNS).table_valued(*scalars.c.keys()).render_derived()))
    .on_conflict_do_nothing()
    .returning(*_STORED)
)


def record(connection: Connection, new: Sequence[NewScalar]) -> frozenset[tuple[str, int, int]]:
    """Store scalars, and return job, seed and copy of those that were not there before."""
    if not new:
        return frozenset()
    if connection.dialect.name == "postgresql":
        columns = zip(NewScalar._fields, zip(*new, strict=True), strict=True)
        found = connection.execute(_INSERT_ARRAYS, {name: list(values) for name, values in columns})
    else:
        found = connection.execute(_INSERT_ROWS, [scalar._asdict() for scalar in new])
    return frozenset((row.job_id, row.seed, row.copy) for row in found)


def measured_by(connection: Connection, job_id: str, round_number: int, seeds: Collection[int]) -> dict[int, list[str]]:
    """Return the devices that have measured each of the ``seeds``; those that have none are left out."""
    found: dict[int, list[str]] = {}
    wanted = set(seeds)
    for least, greatest in _stretches(sorted(wanted)):
        place = {"job": job_id, "round": round_number, "least": least, "greatest": greatest}
        for seed, device in connection.execute(_MEASURED, place):
            if seed in wanted:
                found.setdefault(seed, []).append(device)
    return found


def _stretches(ascending: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return the least and the greatest of seeds that lie close to each other."""
    starts = [i for i, seed in enumerate(ascending) if i == 0 or seed - ascending[i - 1] > _GAP]
    for start, end in pairwise([*starts, len(ascending)]):
        yield ascending[start], ascending[end - 1]


def count(connection: Connection, job_id: str, round_number: int, within: range | None = None, copy: int = 0) -> int:
    """Return the number of seeds of a round, those ``within`` a range, that have a scalar of this ``copy``."""
    query = select(func.count()).where(
        scalars.c.job_id == job_id, scalars.c.round == round_number, scalars.c.copy == copy
    )
    if within is not None:
        query = query.where(scalars.c.seed.between(within.start, within.stop - 1))
    return int(connection.execute(query).scalar_one())


def assignments_with_any(connection: Connection, job_id: str, round_number: int) -> frozenset[str]:
    """Return the assignments of a round that some scalar has come of."""
    query = select(scalars.c.assignment_id).where(scalars.c.job_id == job_id, scalars.c.round == round_number)
    return frozenset(connection.execute(query.distinct()).scalars())


def of_round(connection: Connection, job_id: str, round_number: int) -> Sequence[Scalar]:
    """Return all scalars of a round by ascending seed, with the size of the data they were measured on."""
    query = (
        select(scalars.c.seed, scalars.c.value, scalars.c.device_id, devices.c.training_examples)
        .join(devices, devices.c.id == scalars.c.device_id)
        .where(scalars.c.job_id == job_id, scalars.c.round == round_number)
        .order_by(scalars.c.seed, scalars.c.copy)
    )
    return [Scalar(seed, value, device, examples) for seed, value, device, examples in connection.execute(query)]


def forget(connection: Connection, job_id: str, round_number: int) -> None:
    """Delete a closed round's scalars; what was used of them is in the ledger."""
    connection.execute(delete(scalars).where(scalars.c.job_id == job_id, scalars.c.round == round_number))
