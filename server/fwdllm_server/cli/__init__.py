"""``fwdllm-server``: the operator's command line. :mod:`fwdllm_common.errors` defines its exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

import fwdllm_common.system  # noqa: F401 - ends the program where it cannot run
from fwdllm_common.errors import INTERRUPTED_EXIT_CODE, BadInputError, FwdllmError
from fwdllm_common.logging import configure_logging
from fwdllm_server.cli.app import app

_USAGE_ERROR: Any = getattr(typer, "TyperException", None) or import_module("click").ClickException
"""The exception that typer raises for wrong usage. Older versions raise click's."""


def main() -> None:
    """Run the command in ``sys.argv`` and exit. An error is printed as one line on standard error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    configure_logging()
    try:
        code = app(arguments, prog_name="fwdllm-server", standalone_mode=False)
    except FwdllmError as error:
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED_EXIT_CODE
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith("fwdllm"):
            raise
        return _fail(BadInputError(f"this command needs {error.name}: pip install 'fwdllm[server]'"))
    except BrokenPipeError:
        # The reader of our output has closed it. Without this, Python reports the error again when it flushes at exit.
        sys.stdout = None
        return 1
    except _USAGE_ERROR as error:  # an unknown command, option or value
        message = error.format_message()
        if message.startswith("Usage: "):  # a group of commands was named without a command
            print(message, file=sys.stderr)
            return BadInputError.exit_code
        return _fail(BadInputError(f"{message} (run it with '--help' to list commands and options)"))
    return int(code or 0)


def _fail(error: FwdllmError) -> int:
    print(f"fwdllm-server: {error.line}", file=sys.stderr)
    return error.exit_code
