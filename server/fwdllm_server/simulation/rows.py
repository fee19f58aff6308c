"""Open the file whose rows are divided among simulated devices."""

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
    """Return the source of the rows for a ``model``, and the user of each row if ``user_column`` is given.

    ``text_column`` and ``label_column`` apply to classification. Question answering has fixed columns.

    :raises BadInputError: the file or a row is invalid.
    """
    if model.task != CLASSIFICATION:
        questions = QuestionSource(path)
        return questions, None if user_column is None else questions.values(user_column, model.no_answer)
    source = DataSource(path, text_column, label_column, skip_incomplete=skip_incomplete)
    return source, None if user_column is None else source.values(user_column)
