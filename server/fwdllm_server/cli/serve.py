"""``fwdllm-server serve``: run the coordinator until a signal."""

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
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Run the coordinator in the foreground. SIGTERM ends it with exit code 0, Ctrl-C with 130."""
    import uvloop  # the other commands start at once

    configure_logging(verbose=verbose)
    allocate_buffers_separately()
    home = ServerHome.open(folder)
    config = home.config()
    with home.lock():
        received = uvloop.run(_serve(home, config))  # an event loop at half the price of asyncio's own
    if received is signal.SIGINT:
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


async def _serve(home: ServerHome, config: ServerConfig) -> signal.Signals | None:
    """Serve until a signal asks to stop; which one it was."""
    # Only this command needs the coordinator; the others start at once.
    from fwdllm_server.cli import serving as coordinator
    from fwdllm_server.store.exclusive import only_user

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[signal.Signals] = []

    def ask_to_stop(which: signal.Signals) -> None:
        received.append(which)
        stop.set()
        loop.remove_signal_handler(which)  # the second one is not asked to wait

    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, ask_to_stop, which)
    with only_user(home.database_url(config)):
        await coordinator.serve(home, config, stop)
    return received[0] if received else None
