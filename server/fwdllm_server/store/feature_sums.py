"""The per-class sums of features that initialise a head; the primary key counts each device's sum once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from fwdllm_common.layout import Float32Vector
from fwdllm_server.store.schema import feature_sums


@dataclass(frozen=True, eq=False)
class FeatureSumRecord:
    """The sum over ``rows`` rows of class ``label`` of one device, float32 ``[width]``."""

    device_id: str
    label: int
    rows: int
    features: Float32Vector


def add(connection: Connection, job_id: str, record: FeatureSumRecord) -> None:
    """Store a sum that is not stored yet."""
    data = np.ascontiguousarray(record.features, dtype="<f4").tobytes()
    connection.execute(
        feature_sums.insert().values(
            job_id=job_id, device_id=record.device_id, label=record.label, rows=record.rows, features=data
        )
    )


def rows_of_device(connection: Connection, job_id: str, device_id: str) -> Mapping[int, int]:
    """Return the number of rows of each sum of a device, by class."""
    columns = feature_sums.c
    query = select(columns.label, columns.rows).where(columns.job_id == job_id, columns.device_id == device_id)
    return {row.label: row.rows for row in connection.execute(query)}


def sources(connection: Connection, job_id: str) -> tuple[frozenset[str], frozenset[int]]:
    """Return the devices that have sent a sum and the classes that have one."""
    query = select(feature_sums.c.device_id, feature_sums.c.label).where(feature_sums.c.job_id == job_id)
    found = connection.execute(query).all()
    return frozenset(row.device_id for row in found), frozenset(row.label for row in found)


def of_job(connection: Connection, job_id: str) -> Iterator[FeatureSumRecord]:
    """Yield every sum of a job, ordered by device and class."""
    query = select(feature_sums).where(feature_sums.c.job_id == job_id)
    for row in connection.execute(query.order_by(feature_sums.c.device_id, feature_sums.c.label)):
        features = np.frombuffer(row.features, dtype="<f4").astype(np.float32)
        yield FeatureSumRecord(row.device_id, row.label, row.rows, features)
