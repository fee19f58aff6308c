"""``fwdllm-client``: join a coordinator, run the agent, see how it is.

Exit codes are those of :mod:`fwdllm_common.errors`; 130 after Ctrl-C, 0 after SIGTERM.

argparse and not typer: typer needs pydantic, whose compiled core does not exist for phones, and both together cost an
idle device 17 MB.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from fwdllm_client.home import HOME_VARIABLE, ClientHome
from fwdllm_common.errors import INTERRUPTED_EXIT_CODE, BadInputError, FwdllmError
from fwdllm_common.logging import configure_logging
from fwdllm_common.protocol import MIN_CLASS_ROWS


def main() -> None:
    """Run the command in ``sys.argv``; an error is one line on standard error."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        options = _parser().parse_args(arguments)
        configure_logging(verbose=options.verbose)
        options.command(options)
    except FwdllmError as error:
        if "--verbose" in arguments:
            traceback.print_exc()
        print(f"fwdllm-client: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message} ('{self.prog} --help' lists what there is)")


def _parser() -> _Parser:
    parser = _Parser(prog="fwdllm-client", description="The device agent of fwdllm.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "join", _join, "Trade a join token for this device's identity.")
    command.add_argument("token", metavar="TOKEN", help="what 'fwdllm-server enroll' printed")
    command.add_argument("--force", action="store_true", help="leave the coordinator joined before")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")

    command = _command(commands, "run", _run, "Serve the coordinator with local data until Ctrl-C or SIGTERM.")
    command.add_argument("--data", type=Path, required=True, metavar="FILE", help="CSV, JSONL or Parquet file")
    command.add_argument("--text-column", default="text", metavar="NAME", help="column of the text (text)")
    command.add_argument("--label-column", default="label", metavar="NAME", help="column of the label (label)")
    command.add_argument("--user-column", metavar="NAME", help="column that says whose row it is")
    command.add_argument("--user", metavar="NAME", help="use the rows of this user only")
    command.add_argument("--threads", type=_number_of("threads"), default=0, metavar="N", help="0 for one per core (0)")
    command.add_argument(
        "--validation-fraction", type=float, default=0.1, metavar="F", help="rows kept back for evaluation (0.1)"
    )
    command.add_argument(
        "--allow-feature-sums",
        type=_number_of("rows"),
        nargs="?",
        const=MIN_CLASS_ROWS,
        metavar="ROWS",
        help="send a job that asks for it, once, the sum of the features of each class with ROWS rows or more "
        f"({MIN_CLASS_ROWS}, the fewest); without this option nothing but scalars and counts is ever sent",
    )
    command.add_argument("--once", action="store_true", help="check in a single time, do what that brings, and end")

    command = _command(commands, "status", _status, "Show who this device is and what it has not delivered yet.")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, function: object, description: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    command.set_defaults(command=function)
    command.add_argument(
        "--home", type=Path, metavar="FOLDER", help=f"the agent's folder (${HOME_VARIABLE} or ~/.fwdllm)"
    )
    command.add_argument("--verbose", action="store_true", help="show debug logs, and the traceback of an error")
    return command


def _join(options: argparse.Namespace) -> None:
    from fwdllm_client.enrol import join

    home = ClientHome.choose(options.home)
    with home.lock():
        identity = join(home, options.token, force=options.force)
    if options.json:
        print(json.dumps({"device_id": identity.device_id, "coordinator": identity.device_address}))
    else:
        print(f"joined {identity.device_address} as {identity.device_id}; now run: fwdllm-client run --data FILE")


def _run(options: argparse.Namespace) -> None:
    from fwdllm_client.agent import LocalData, run_agent
    from fwdllm_client.data import DataSource
    from fwdllm_client.policy import Policy

    source = DataSource(options.data, options.text_column, options.label_column, options.user_column, options.user)
    data = LocalData(source, options.validation_fraction)
    # Every file is written whole or not at all, so both signals may end the agent wherever it is.
    signal.signal(signal.SIGTERM, _end)
    home = ClientHome.choose(options.home)
    policy = Policy(options.allow_feature_sums)
    run_agent(home, data, threading.Event(), policy=policy, threads=options.threads, once=options.once)


def _status(options: argparse.Namespace) -> None:
    found = _facts(ClientHome.choose(options.home))
    if options.json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name.replace('_', ' '):{width}}  {'-' if value is None else value}")


def _facts(home: ClientHome) -> dict[str, str | int | bool | None]:
    from fwdllm_client.journal import Journal

    identity = home.load_identity() if home.joined else None
    facts: dict[str, str | int | bool | None] = {
        "home": str(home.folder),
        "joined": identity is not None,
        "running": home.running,
        "device_id": identity.device_id if identity else None,
        "coordinator": identity.device_address if identity else None,
        "certificate_expires": _moment(identity.expires_unix_s) if identity else None,
        "unacknowledged_scalars": 0,
        "cache_bytes": _bytes_below(home.cache),
    }
    if home.journal.exists():
        journal = Journal(home.journal)
        facts["unacknowledged_scalars"] = sum(len(entry.derivatives) for _, entry in journal.unacknowledged())
        journal.close()
    return facts


def _moment(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


def _bytes_below(folder: Path) -> int:
    # Bundles are hard links to the cached files: each inode counts once.
    files = {(stat := path.stat()).st_ino: stat.st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def _number_of(what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what}")
        return int(text)

    return parse


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)
