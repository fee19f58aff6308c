"""Reading the job file that a command names."""

from __future__ import annotations

from pathlib import Path

from fwdllm_common.errors import BadInputError


def read_job_file(file: Path) -> str:
    """Its text, not checked any further.

    :raises BadInputError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read ({error}); check the path") from error
