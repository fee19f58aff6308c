"""The file whose rows are divided among simulated devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwdllm_client.data import DataSource, QuestionSource, Source
from fwdllm_common.task import CLASSIFICATION, Task


def read_source(
    path: Path, task: Task, text_column: str, label_column: str, user_column: str | None
) -> tuple[Source, Sequence[str] | None]:
    """Where the rows are, and the user of each if there is a column for it; questions have columns of their own.

    :raises BadInputError: the file or a row is wrong.
    """
    source: Source = QuestionSource(path) if task != CLASSIFICATION else DataSource(path, text_column, label_column)
    return source, None if user_column is None else source.values(user_column)
