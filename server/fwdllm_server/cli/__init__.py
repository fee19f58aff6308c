"""``fwdllm-server``: the operator's command line. Exit codes are those of :mod:`fwdllm_common.errors`."""

from __future__ import annotations

import sys

import typer

from fwdllm_common.errors import INTERRUPTED_EXIT_CODE, BadInputError, FwdllmError
from fwdllm_common.logging import silence_grpc
from fwdllm_server.cli.app import app

silence_grpc()


def main() -> None:
    """Run the command in ``sys.argv``; errors are one line on standard error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = app(arguments, prog_name="fwdllm-server", standalone_mode=False)
    except FwdllmError as error:
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # Whoever read our output has had enough; Python would complain once more when it flushes at exit.
        sys.stdout = None
        return 1
    except typer.TyperException as error:  # an unknown command, option or value
        message = error.format_message()
        if message.startswith("Usage: "):  # nothing but a group of commands was named
            print(message, file=sys.stderr)
            return BadInputError.exit_code
        return _fail(BadInputError(f"{message} ('--help' lists what there is)"))
    return int(code or 0)


def _fail(error: FwdllmError) -> int:
    print(f"fwdllm-server: {error.line}", file=sys.stderr)
    return error.exit_code
