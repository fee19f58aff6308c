"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FOLDER = Path("fwdllm-server")
_VARIABLE = "FWDLLM_SERVER_DIR"

FolderOption = Annotated[Path, typer.Option("--dir", envvar=_VARIABLE, help="The server's directory.")]
FolderArgument = Annotated[Path, typer.Argument(envvar=_VARIABLE, metavar="DIR", help="The server's directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or its name (the newest of that name).")]
