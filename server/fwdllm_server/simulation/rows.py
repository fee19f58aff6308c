"""The file whose rows are divided among simulated devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwdllm_client.data import DataSource, QuestionSource, Source
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.config.job import ModelSection


def read_source(
    path: Path,
    model: ModelSection,
    text_column: str,
    label_column: str,
    user_column: str | None,
    skip_incomplete: bool = False,
) -> tuple[Source, Sequence[str] | None]:
    """Where the rows for a ``model`` are, and the user of each if there is a column for it.

    Questions have columns of their own.

    :raises BadInputError: the file or a row is wrong.
    """
    if model.task != CLASSIFICATION:
        questions = QuestionSource(path)
        return questions, None if user_column is None else questions.values(user_column, model.no_answer)
    source = DataSource(path, text_column, label_column, skip_incomplete=skip_incomplete)
    return source, None if user_column is None else source.values(user_column)
