"""``fwdllm-server profile``: rank PEFT methods for a job file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fwdllm_common.files import make_folder, write_atomically
from fwdllm_server.cli.job_file import read_job_file
from fwdllm_server.cli.options import JsonOption
from fwdllm_server.config.toml_model import parse_toml

if TYPE_CHECKING:
    from fwdllm_server.profiler.profiler import Profiler
    from fwdllm_server.profiler.report import Report

REPORT_FILE = "profile.json"
PLOT_FILE = "profile.png"
PEFT_FILE = "peft.toml"
_WIDTH = 160  # of a table that is not written to a terminal


def profile(
    file: Annotated[Path, typer.Argument(metavar="JOB", help="The job file, TOML.")],
    candidates: Annotated[
        Path | None, typer.Option(help="TOML file with [[candidate]] tables; by default every method.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows to train on.")] = 256,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 8,
    seed: Annotated[
        int | None, typer.Option(min=0, max=(1 << 63) - 1, help="Seed of rows and their order; by default the job's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the model; 0 means one per core.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the report, its plot and the [peft] block.")] = None,
    json: JsonOption = False,
) -> None:
    """Rank PEFT methods for a job. By the passes that forward gradients need for what the held-out rows teach."""
    # Imported here: the other commands do not need torch.
    from fwdllm_server.preparation.job_file import read_job
    from fwdllm_server.profiler.candidates import CandidateFile
    from fwdllm_server.profiler.peft_block import peft_block
    from fwdllm_server.profiler.plot import plot, require_plotting
    from fwdllm_server.profiler.profiler import Amount, Profiler
    from fwdllm_server.profiler.table import render

    spec = read_job(read_job_file(file), file.absolute().parent)
    chosen = parse_toml(read_job_file(candidates), CandidateFile, str(candidates)).candidate if candidates else None
    if out is not None:
        require_plotting()
        make_folder(out)
    amount = Amount(rows, epochs, spec.job.seed if seed is None else seed, threads)
    report = _measure(Profiler(spec, file.absolute().parent, amount, chosen), epochs, out)
    block = peft_block(report.candidates[0].peft)
    if out is not None:
        write_atomically(out / PLOT_FILE, plot(report))
        write_atomically(out / PEFT_FILE, block.encode())
    if json:
        print(report.model_dump_json())
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(render(report))
    print(f"\n{block}", end="")
    if out is not None:
        print(f"\n{out.absolute()}: {REPORT_FILE}, {PLOT_FILE}, {PEFT_FILE}")


def _measure(profiler: Profiler, epochs: int, out: Path | None) -> Report:
    """Return the report on all candidates. Write the partial report to ``out`` after each candidate."""
    report: Report | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=(epochs + 1) * len(profiler.candidates))
        for report in profiler.run(
            lambda name: progress.update(task, description=name), lambda: progress.advance(task)
        ):
            if out is not None:
                write_atomically(out / REPORT_FILE, report.model_dump_json(indent=2).encode() + b"\n")
    assert report is not None
    return report
