"""The file whose rows are divided among simulated devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fwdllm_client.data import DataSource


def read_source(
    path: Path, text_column: str, label_column: str, user_column: str | None
) -> tuple[DataSource, Sequence[str] | None]:
    """Where the rows are, and the user of each if there is a column for it.

    :raises BadInputError: the file or a row is wrong.
    """
    users = None
    if user_column is not None:
        users = [row.label for row in DataSource(path, text_column, user_column).rows()]
    return DataSource(path, text_column, label_column), users
