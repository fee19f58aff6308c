"""Scalars as a device's report leaves them in the store."""

from collections.abc import Mapping

from sqlalchemy import Connection, select

from fwdllm_server.store import scalars, schema
from fwdllm_server.store.scalars import NewScalar


def record(
    connection: Connection, job: str, round_number: int, work: str, device: str, values: Mapping[int, int]
) -> int:
    """Store values by seed; returns how many were not there before."""
    new = [NewScalar(job, round_number, seed, 0, work, device, value) for seed, value in values.items()]
    return len(scalars.record(connection, new))


def seeds_of_round(connection: Connection, job: str, round_number: int) -> frozenset[int]:
    """The seeds of a round that have a scalar."""
    found = schema.scalars.c
    query = select(found.seed).where(found.job_id == job, found.round == round_number)
    return frozenset(connection.execute(query).scalars())
