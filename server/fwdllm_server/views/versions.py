"""Which version of a job's model is meant."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

from sqlalchemy import Connection

from fwdllm_common.errors import BadInputError
from fwdllm_server.store import ledger
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.tasks import Task, task_named


def chosen_version(connection: Connection, record: JobRecord, asked: int | Literal["best"] | None) -> int | None:
    """Return the version that is asked for.

    Without a wish it is the last good one of a job that diverged, or else what the validation rows prefer; None stands
    for the newest.

    :raises BadInputError: no version has been evaluated, or there is no such version.
    """
    if asked == "best":
        return best_version(connection, record)
    if asked is not None:
        return checked_version(connection, record, asked)
    return record.good_version if record.good_version is not None else ledger.best_version(connection, record.id)


def best_version(connection: Connection, record: JobRecord) -> int:
    """Return the version that the validation rows prefer, or without such rows the best on the held-out rows.

    :raises BadInputError: no version has been evaluated.
    """
    chosen = ledger.best_version(connection, record.id)
    if chosen is not None:
        return chosen
    found = ledger.evaluations_of(connection, record.id)
    if not found:
        raise BadInputError(f"no version of job {record.name} has been evaluated yet; name one by its number")
    return best_of(found, task_named(record.spec().model.task)).version


def best_of(found: Sequence[EvaluationRecord], task: Task) -> EvaluationRecord:
    """Return the evaluation with the highest accuracy (or F1), of equal ones that with the lower loss, or the first.

    Where the task tells a perplexity it is the one with the lowest. One whose loss is not finite comes last.
    """

    def order(each: EvaluationRecord) -> tuple[bool, float, float, int]:
        figures = (each.loss, -each.accuracy) if task.has_perplexity else (-each.accuracy, each.loss)
        return (not isfinite(each.loss), *figures, each.version)

    return min(found, key=order)


def checked_version(connection: Connection, record: JobRecord, version: int) -> int:
    """Return ``version``.

    :raises BadInputError: the job has no such version.
    """
    newest, _ = ledger.totals(connection, record.id)
    if version > newest:
        raise BadInputError(f"job {record.name} has no version {version}; it has 0 to {newest}")
    return version
