"""Packed scalars of rounds that have not closed, a row for each message; the primary key counts each once.

A frame of orthogonal directions is one device's, which sends its scalars in the order of their seeds: what comes is the
next span, or one that is there already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, select

from fwdllm_common.packing import integers_of
from fwdllm_server.algorithm.complete import Span
from fwdllm_server.store.schema import devices, scalar_spans
from fwdllm_server.store.statements import insert_into


class NewSpan(NamedTuple):
    """Consecutive seeds' packed scalars as they are stored."""

    job_id: str
    round: int
    seeds: range
    assignment_id: str
    device_id: str
    halves: bytes

    def row(self) -> dict[str, object]:
        """Return the values of the span's columns."""
        values = self._asdict()
        seeds = values.pop("seeds")
        return {**values, "first_seed": seeds.start, "length": len(seeds)}


def record(connection: Connection, new: Sequence[NewSpan]) -> frozenset[tuple[str, int]]:
    """Store spans, and return job and first seed of those that were not there before."""
    if not new:
        return frozenset()
    insert = insert_into(scalar_spans, connection.dialect.name)
    statement = insert.on_conflict_do_nothing().returning(scalar_spans.c.job_id, scalar_spans.c.first_seed)
    found = connection.execute(statement, [span.row() for span in new])
    return frozenset((row.job_id, row.first_seed) for row in found)


_OF_ASSIGNMENTS = select(scalar_spans.c.assignment_id, scalar_spans.c.first_seed, scalar_spans.c.length).where(
    scalar_spans.c.assignment_id.in_(bindparam("ids", expanding=True))
)


def measured_by(connection: Connection, assignment_ids: Collection[str]) -> Mapping[str, list[range]]:
    """Return the seeds of the spans that there are of each assignment."""
    found: dict[str, list[range]] = defaultdict(list)
    if not assignment_ids:
        return found
    for assignment_id, first_seed, length in connection.execute(_OF_ASSIGNMENTS, {"ids": list(assignment_ids)}):
        found[assignment_id].append(range(first_seed, first_seed + length))
    return found


def count(connection: Connection, job_id: str, round_number: int, within: range) -> int:
    """Return the number of seeds of a round ``within`` a range that have a scalar."""
    query = select(func.coalesce(func.sum(scalar_spans.c.length), 0)).where(
        scalar_spans.c.job_id == job_id,
        scalar_spans.c.round == round_number,
        scalar_spans.c.first_seed.between(within.start, within.stop - 1),
    )
    return int(connection.execute(query).scalar_one())


def of_round(connection: Connection, job_id: str, round_number: int) -> Sequence[Span]:
    """Return all spans of a round by ascending seed, with the size of the data they were measured on."""
    query = (
        select(scalar_spans, devices.c.training_examples)
        .join(devices, devices.c.id == scalar_spans.c.device_id)
        .where(scalar_spans.c.job_id == job_id, scalar_spans.c.round == round_number)
        .order_by(scalar_spans.c.first_seed)
    )
    return [
        Span(
            row.first_seed,
            integers_of(row.halves),
            row.device_id,
            row.training_examples,
        )
        for row in connection.execute(query)
    ]


def forget(connection: Connection, job_id: str, round_number: int) -> None:
    """Delete a closed round's spans; what was used of them is in the ledger."""
    own = (scalar_spans.c.job_id == job_id) & (scalar_spans.c.round == round_number)
    connection.execute(delete(scalar_spans).where(own))
