"""Summary of a data file, computed in one pass without a model."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from fwdllm_client.data.questions import QuestionSource
from fwdllm_client.data.records import LeftOut
from fwdllm_client.data.source import DataSource
from fwdllm_common.task import CLASSIFICATION, QUESTION_ANSWERING, Task

Source = DataSource | QuestionSource
"""A source of rows; its type determines the task."""

_SEPARATORS = ("[SEP]", "</s>")
_log = structlog.get_logger()


@dataclass(frozen=True)
class Contents:
    """The task of the rows, the number of ``rows``, and the labels that occur, sorted; questions have none.

    ``left_out`` is the number of further rows that are not used: questions without an answer, or skipped incomplete
    rows.
    """

    task: Task
    rows: int
    labels: tuple[str, ...] = ()
    left_out: int = 0


def contents_of(source: Source, unanswerable: bool = False) -> Contents:
    """Read every row and summarise the file; questions without an answer count only with ``unanswerable``.

    Rows that are left out, and texts that contain a separator of pairs, are logged.

    :raises BadInputError: the file or a row is wrong, or there is no row.
    """
    left_out = LeftOut()
    if isinstance(source, QuestionSource):
        rows = sum(1 for _ in source.rows(left_out, unanswerable))
        if left_out.rows:
            _log.warning(
                "questions without an answer are left out", file=str(source.path), rows=left_out.rows, kept=rows
            )
        return Contents(QUESTION_ANSWERING, rows, left_out=left_out.rows)
    labels: set[str] = set()
    rows = pairs = 0
    for row in source.rows(left_out):
        labels.add(row.label)
        rows += 1
        pairs += any(separator in row.text for separator in _SEPARATORS)
    if left_out.rows:
        _log.warning(
            "rows without a text or a label are left out", file=str(source.path), rows=left_out.rows, kept=rows
        )
    if pairs:
        _log.warning(
            "texts hold a separator: the model is not told that they are pairs, and reads both parts as one text",
            file=str(source.path),
            rows=pairs,
        )
    return Contents(CLASSIFICATION, rows, tuple(sorted(labels)), left_out.rows)
