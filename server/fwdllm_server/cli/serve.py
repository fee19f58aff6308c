"""``fwdllm-server serve``: run the coordinator until a signal arrives."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from fwdllm_common.errors import INTERRUPTED_EXIT_CODE
from fwdllm_common.logging import configure_logging
from fwdllm_server.cli.allocator import allocate_buffers_separately
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderArgument
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import ServerConfig


def serve(
    folder: FolderArgument = DEFAULT_FOLDER,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log debug events too: phase changes, division of directions, retries.")
    ] = False,
) -> None:
    """Run the coordinator in the foreground. SIGTERM ends it with exit code 0, Ctrl-C with 130."""
    import uvloop  # imported here, so that the other commands start quickly

    configure_logging(verbose=verbose)
    allocate_buffers_separately()
    home = ServerHome.open(folder)
    config = home.config()
    with home.lock():
        received = uvloop.run(_serve(home, config))  # it takes half the CPU time of asyncio's own loop
    if received is signal.SIGINT:
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


async def _serve(home: ServerHome, config: ServerConfig) -> signal.Signals | None:
    """Serve until SIGINT or SIGTERM, and return that signal."""
    # Imported here, so that the other commands start quickly.
    from fwdllm_server.cli import serving as coordinator
    from fwdllm_server.store.exclusive import only_user

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[signal.Signals] = []

    def ask_to_stop(which: signal.Signals) -> None:
        received.append(which)
        stop.set()
        loop.remove_signal_handler(which)  # the second signal ends the process at once

    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, ask_to_stop, which)
    with only_user(home.database_url(config)):
        await coordinator.serve(home, config, stop)
    return received[0] if received else None
