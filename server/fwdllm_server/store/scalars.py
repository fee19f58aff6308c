"""Scalars of rounds that have not closed; the primary key counts each once (DESIGN §2, invariant 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from fwdllm_common.estimator import Scalar
from fwdllm_server.store.schema import devices, scalars


def record(
    connection: Connection,
    job_id: str,
    round_number: int,
    assignment_id: str,
    device_id: str,
    values: Mapping[int, int],
    copies: Mapping[int, int] = {},
) -> int:
    """Store fixed-point ``values`` by seed; returns how many were not there before.

    ``copies`` says for the seeds that may have several scalars, each of another device, which one this is; see
    :func:`next_copies`.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = [
        {
            "job_id": job_id,
            "round": round_number,
            "seed": seed,
            "copy": copies.get(seed, 0),
            "assignment_id": assignment_id,
            "device_id": device_id,
            "value": value,
        }
        for seed, value in values.items()
    ]
    if not rows:
        return 0
    # Rows as parameters and not as values: the statement is compiled once and not for each number of rows.
    # Not every driver's count survives an INSERT unasked.
    statement = insert(scalars).on_conflict_do_nothing()
    return connection.execute(statement, rows, execution_options={"preserve_rowcount": True}).rowcount


def next_copies(
    connection: Connection, job_id: str, round_number: int, device_id: str, most: Mapping[int, int]
) -> Mapping[int, int]:
    """Of the seeds that ``most`` allows so many scalars each, those that can take one of a device's, and its place."""
    if not most:
        return {}
    query = select(scalars.c.seed, scalars.c.device_id).where(
        scalars.c.job_id == job_id,
        scalars.c.round == round_number,
        scalars.c.seed.between(min(most), max(most)),
    )
    measured: dict[int, set[str]] = {seed: set() for seed in most}
    for seed, device in connection.execute(query):
        if seed in measured:
            measured[seed].add(device)
    return {
        seed: len(devices)
        for seed, devices in measured.items()
        if device_id not in devices and len(devices) < most[seed]
    }


def count(
    connection: Connection, job_id: str, round_number: int, within: tuple[int, int] | None = None, copy: int = 0
) -> int:
    """How many seeds of a round have a scalar in this place; ``within`` is the least and the greatest of them."""
    query = select(func.count()).where(
        scalars.c.job_id == job_id, scalars.c.round == round_number, scalars.c.copy == copy
    )
    if within is not None:
        query = query.where(scalars.c.seed.between(*within))
    return int(connection.execute(query).scalar_one())


def seeds_of_round(
    connection: Connection,
    job_id: str,
    round_number: int,
    within: tuple[int, int] | None = None,
    copy: int = 0,
    or_of: str | None = None,
) -> frozenset[int]:
    """The seeds of a round that have a scalar in this place, whoever measured it, or any of the device ``or_of``.

    ``within`` is the least and the greatest wanted.
    """
    enough = scalars.c.copy == copy
    query = select(scalars.c.seed).where(
        scalars.c.job_id == job_id,
        scalars.c.round == round_number,
        enough if or_of is None else enough | (scalars.c.device_id == or_of),
    )
    if within is not None:
        query = query.where(scalars.c.seed.between(*within))
    return frozenset(connection.execute(query).scalars())


def of_round(connection: Connection, job_id: str, round_number: int) -> Sequence[Scalar]:
    """All scalars of a round by ascending seed, with the size of the data they were measured on."""
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
