"""``fwdllm-client``: join a coordinator, run the agent, see how it is.

Exit codes are those of :mod:`fwdllm_common.errors`; 130 after Ctrl-C, 0 after SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fwdllm_client.home import HOME_VARIABLE, ClientHome
from fwdllm_common.errors import FwdllmError
from fwdllm_common.logging import configure_logging

app = typer.Typer(
    help="The device agent of fwdllm.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

_INTERRUPTED = 130

HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar=HOME_VARIABLE, help="The agent's folder; ~/.fwdllm by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show debug logs, and the traceback of an error.")]


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="What 'fwdllm-server enroll' printed.")],
    home: HomeOption = None,
    force: Annotated[bool, typer.Option("--force", help="Leave the coordinator joined before.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Trade a join token for this device's identity."""
    from fwdllm_client.enrol import join as enrol

    configure_logging(verbose=verbose)
    chosen = ClientHome.choose(home)
    with chosen.lock():
        identity = enrol(chosen, token, force=force)
    if as_json:
        print(json.dumps({"device_id": identity.device_id, "coordinator": identity.device_address}))
    else:
        print(f"joined {identity.device_address} as {identity.device_id}; now run: fwdllm-client run --data FILE")


@app.command()
def run(
    data: Annotated[Path, typer.Option("--data", help="CSV, JSONL or Parquet file with the local examples.")],
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    user_column: Annotated[str | None, typer.Option(help="Column that says whose row it is.")] = None,
    user: Annotated[str | None, typer.Option(help="Use the rows of this user only.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads to compute with; 0 for one per core.")] = 0,
    validation_fraction: Annotated[float, typer.Option(help="Share of the rows kept back for evaluation.")] = 0.1,
    once: Annotated[bool, typer.Option("--once", help="Check in a single time, do what that brings, and end.")] = False,
    home: HomeOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve the coordinator with local data until Ctrl-C or SIGTERM."""
    from fwdllm_client.agent import LocalData, run_agent
    from fwdllm_client.data import DataSource

    configure_logging(verbose=verbose)
    source = DataSource(data, text_column, label_column, user_column, user)
    # Every file is written whole or not at all, so both signals may end the agent wherever it is.
    signal.signal(signal.SIGTERM, _end)
    run_agent(
        ClientHome.choose(home), LocalData(source, validation_fraction), threading.Event(), threads=threads, once=once
    )


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """Show who this device is and what it has not delivered yet."""
    configure_logging(verbose=verbose)
    found = _status(ClientHome.choose(home))
    if as_json:
        print(json.dumps(found))
    else:
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name.replace('_', ' '):{width}}  {'-' if value is None else value}")


def _status(home: ClientHome) -> dict[str, str | int | bool | None]:
    from fwdllm_client.journal import Journal

    found: dict[str, str | int | bool | None] = {
        "home": str(home.folder),
        "joined": home.joined,
        "running": home.running,
        "device_id": None,
        "coordinator": None,
        "certificate_expires": None,
        "unacknowledged_scalars": 0,
        "cache_bytes": _bytes_below(home.cache),
    }
    if home.joined:
        identity = home.load_identity()
        found["device_id"] = identity.device_id
        found["coordinator"] = identity.device_address
        found["certificate_expires"] = datetime.fromtimestamp(identity.expires_unix_s, UTC).isoformat()
    if home.journal.exists():
        journal = Journal(home.journal)
        found["unacknowledged_scalars"] = sum(len(entry.derivatives) for _, entry in journal.unacknowledged())
        journal.close()
    return found


def _bytes_below(folder: Path) -> int:
    # Bundles are hard links to the cached files: each inode counts once.
    files = {(stat := path.stat()).st_ino: stat.st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Run the command in ``sys.argv``; an error is one line on standard error."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = app(arguments, prog_name="fwdllm-client", standalone_mode=False)
    except FwdllmError as error:
        if "--verbose" in arguments:
            raise
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except typer.TyperException as error:  # an unknown command, option or value
        return _fail(f"{error.format_message()} ('--help' lists what there is)", error.exit_code)
    return int(code or 0)


def _fail(message: str, code: int) -> int:
    print(f"fwdllm-client: {' '.join(message.split())}", file=sys.stderr)
    return code
