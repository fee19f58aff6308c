"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fwdllm_common.errors import BadInputError

DEFAULT_FOLDER = Path("fwdllm-server")
_VARIABLE = "FWDLLM_SERVER_DIR"

FolderOption = Annotated[Path, typer.Option("--dir", envvar=_VARIABLE, help="The server's directory.")]
FolderArgument = Annotated[Path, typer.Argument(envvar=_VARIABLE, metavar="DIR", help="The server's directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or its name (the newest of that name).")]
VersionOption = Annotated[
    str,
    typer.Option(
        "--version", metavar="best|N", help="A version, or the best on the held-out rows; else what the run ended with."
    ),
]
_MOST_VERSIONS = 1 << 63


def wanted_version(word: str) -> int | Literal["best"] | None:
    """Return the version that a :data:`VersionOption` names, None without one.

    :raises BadInputError: it is neither a number nor ``best``.
    """
    if word == "best":
        return "best"
    if not word:
        return None
    if not (word.isascii() and word.isdecimal()) or int(word) >= _MOST_VERSIONS:
        raise BadInputError(f"--version is {word!r}; it is the number of a version, 0 or more, or the word best")
    return int(word)
