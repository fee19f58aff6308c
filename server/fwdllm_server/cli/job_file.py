"""Read the job file of a command."""

from __future__ import annotations

from pathlib import Path

from fwdllm_common.errors import BadInputError


def read_job_file(file: Path) -> str:
    """Return the text of a job file. Only its encoding is checked.

    :raises BadInputError: the file cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read ({error}); check the path") from error
