"""Open the file whose rows are divided among simulated devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwdllm_client.data import Source
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_server.config.job_sections import ModelSection


def read_source(
    path: Path,
    model: ModelSection,
    text_column: str,
    label_column: str,
    user_column: str | None,
    skip_incomplete: bool = False,
    pair_column: str | None = None,
) -> tuple[Source, Sequence[str] | None]:
    """Return the source of the rows for a ``model``, and the user of each row if ``user_column`` is given.

    :raises BadInputError: the file or a row is invalid.
    """
    options = RowOptions(
        text_column, label_column, skip_incomplete=skip_incomplete, no_answer=model.no_answer, pair_column=pair_column
    )
    source = task_named(model.task).source(path, options)
    return source, None if user_column is None else source.values(user_column)
