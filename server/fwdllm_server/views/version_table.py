"""The versions of a job's model as a table: a row for each, with what its round cost and what it was worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from fwdllm.v1.operator_pb2 import VersionRecord

Value = float | str | None

HEADS = (
    "version",
    "round",
    "directions",
    "variance",
    "variance_threshold",
    "reason",
    "committed_unix_s",
    "accuracy",
    "loss",
    "exact_match",
)


def row(version: VersionRecord) -> Sequence[Value]:
    """Return one value for each of :data:`HEADS`; None where there is none."""
    committed = version.round > 0
    evaluated = version.evaluation if version.HasField("evaluation") else None
    exact = evaluated.exact_match if evaluated is not None and evaluated.HasField("exact_match") else None
    return (
        version.version,
        version.round if committed else None,
        version.directions,
        version.variance if committed else None,
        version.variance_threshold if committed else None,
        version.reason,
        version.committed_unix_s if committed else None,
        None if evaluated is None else evaluated.accuracy,
        None if evaluated is None else evaluated.loss,
        exact,
    )


def as_csv(versions: Sequence[VersionRecord]) -> str:
    """Return the table as CSV, with a head."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    writer.writerows(map(row, versions))
    return out.getvalue()
