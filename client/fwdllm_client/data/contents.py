"""What there is in a data file, found in one pass without a model."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from fwdllm_client.data.questions import QuestionSource
from fwdllm_client.data.records import LeftOut
from fwdllm_client.data.source import DataSource
from fwdllm_common.task import CLASSIFICATION, QUESTION_ANSWERING, Task

Source = DataSource | QuestionSource
"""Where rows come from: which of the two says for which task they are."""

_SEPARATORS = ("[SEP]", "</s>")
_log = structlog.get_logger()


@dataclass(frozen=True)
class Contents:
    """For which task the ``rows`` are, how many, and the labels that occur, sorted; questions have none.

    Beside them so many rows are ``left_out``: questions without an answer, or incomplete ones that were to be skipped.
    """

    task: Task
    rows: int
    labels: tuple[str, ...] = ()
    left_out: int = 0


def contents_of(source: Source, unanswerable: bool = False) -> Contents:
    """Read every row; ``unanswerable`` questions count only if they are wanted.

    What is left out, and pairs of texts in one column, are logged.

    :raises BadInputError: the file or a row is wrong, or there is none.
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
