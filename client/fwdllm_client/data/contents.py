"""What there is in a data file, found in one pass without a model."""

from __future__ import annotations

from dataclasses import dataclass

from fwdllm_client.data.questions import QuestionSource
from fwdllm_client.data.source import DataSource
from fwdllm_common.task import CLASSIFICATION, QUESTION_ANSWERING, Task

Source = DataSource | QuestionSource
"""Where rows come from: which of the two says for which task they are."""


@dataclass(frozen=True)
class Contents:
    """For which task the ``rows`` are, how many, and the labels that occur, sorted; questions have none."""

    task: Task
    rows: int
    labels: tuple[str, ...] = ()


def contents_of(source: Source) -> Contents:
    """Read every row.

    :raises BadInputError: the file or a row is wrong, or there is none.
    """
    if isinstance(source, QuestionSource):
        return Contents(QUESTION_ANSWERING, sum(1 for _ in source.rows()))
    labels: set[str] = set()
    rows = 0
    for row in source.rows():
        labels.add(row.label)
        rows += 1
    return Contents(CLASSIFICATION, rows, tuple(sorted(labels)))
