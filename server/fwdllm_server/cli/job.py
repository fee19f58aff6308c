"""``fwdllm-server job …``: submit jobs and follow them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_STOPPED,
    Evaluation,
    ExtendJobRequest,
    GetJobRequest,
    Job,
    ListJobsRequest,
    SetJobPriorityRequest,
    SubmitJobRequest,
)
from fwdllm_common.errors import BadInputError, JobFailedError, StoppedError, UnreachableError, WaitTimeoutError
from fwdllm_common.protocol import MOST_PRIORITY
from fwdllm_server.cli import job_records
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.check import check
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.formatting import columns, printable
from fwdllm_server.cli.job_file import read_job_file
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JobArgument, JsonOption
from fwdllm_server.cli.progress import main_figure, render, show_job, state_word
from fwdllm_server.config.job_sections import MOST_ROUNDS
from fwdllm_server.views.message_json import as_dict, print_json

app = typer.Typer(help="Submit jobs and follow them.", no_args_is_help=True, rich_markup_mode=None)

_ENDED = (JOB_STATE_DONE, JOB_STATE_FAILED, JOB_STATE_STOPPED)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file, TOML.")],
    only_check: Annotated[
        bool,
        typer.Option("--check", help="Do all but the start, here: prepare the model, and predict a device's costs."),
    ] = False,
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Check a job file and submit the job."""
    if only_check:
        check(file, json)
        return
    request = SubmitJobRequest(spec_toml=read_job_file(file), base_folder=str(file.absolute().parent))
    with operator_service(folder) as service:
        submitted = service.SubmitJob(request, timeout=ANSWER_S)
    job_id = submitted.job_id
    if json:
        print_json(as_dict(submitted))
        return
    if submitted.same_name:
        print(
            f"its name now refers to this job; use the id for the earlier {', '.join(submitted.same_name)}",
            file=sys.stderr,
        )
    print(f"{job_id}\nfollow it with 'fwdllm-server job watch {job_id}'")


@app.command("list")
def list_jobs(folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """List the jobs, the newest first."""
    with operator_service(folder) as service:
        jobs = service.ListJobs(ListJobsRequest(), timeout=ANSWER_S).jobs
    if json:
        print_json([as_dict(job) for job in jobs])
    elif not jobs:
        print("no jobs yet; submit one with 'fwdllm-server job submit FILE'")
    else:
        rows = [
            (
                job.job_id,
                job.name,
                state_word(job),
                f"{job.rounds_committed}/{job.rounds_wanted}",
                _score(job.latest_evaluation) if job.HasField("latest_evaluation") else "-",
                job.message,
            )
            for job in jobs
        ]
        print(columns(("JOB", "NAME", "STATE", "ROUNDS", "ACCURACY", "MESSAGE"), rows))


@app.command()
def show(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Show the current state of a job."""
    with operator_service(folder) as service:
        found = service.GetJob(GetJobRequest(job=job), timeout=ANSWER_S)
    _print_job(found, json)


@app.command()
def watch(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Follow a job until it ends. With --json, print one document a line. The exit codes are those of 'wait'."""
    last = None
    with Display(Console(quiet=json)) as display:
        for change in _changes(folder, job, None):
            last = change
            if json:
                print_json(as_dict(change))
            else:
                show_job(display, change)
    _raise_unless_done(job, last)


@app.command()
def wait(
    job: JobArgument,
    timeout: Annotated[float | None, typer.Option(min=0, help="Longest time to wait, in seconds.")] = None,
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Wait until a job ends. Exit codes: 0 done, 1 failed, 3 unreachable, 4 timed out, 5 stopped, 130 interrupted."""
    last = None
    try:
        for change in _changes(folder, job, timeout):
            last = change
    except WaitTimeoutError:
        so_far = f" (round {last.rounds_committed} of {last.rounds_wanted})" if last else ""
        raise WaitTimeoutError(
            f"job {job} has not ended within {timeout:g} s{so_far}; it continues, follow it with "
            f"'fwdllm-server job watch {job}'"
        ) from None
    if last and last.state in _ENDED:
        _print_job(last, json)
    _raise_unless_done(job, last)


@app.command()
def stop(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Stop a job immediately. Committed rounds are kept, and the job can be resumed."""
    with operator_service(folder) as service:
        _print_job(service.StopJob(GetJobRequest(job=job), timeout=ANSWER_S), json)


@app.command()
def pause(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Pause a job after its current round, until it is resumed."""
    with operator_service(folder) as service:
        _print_job(service.PauseJob(GetJobRequest(job=job), timeout=ANSWER_S), json)


@app.command(context_settings={"ignore_unknown_options": True})  # -7 is a number
def priority(
    job: JobArgument,
    number: Annotated[
        int,
        typer.Argument(
            metavar="PRIORITY",
            min=-MOST_PRIORITY,
            max=MOST_PRIORITY,
            help="The job with the highest number comes first.",
        ),
    ],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Set a job's priority. Jobs that wait for the same devices get them by priority. The default is 0."""
    with operator_service(folder) as service:
        request = SetJobPriorityRequest(job=job, priority=number)
        _print_job(service.SetJobPriority(request, timeout=ANSWER_S), json)


@app.command()
def resume(job: JobArgument, folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Resume a job that was paused or stopped, or has failed."""
    with operator_service(folder) as service:
        _print_job(service.ResumeJob(GetJobRequest(job=job), timeout=ANSWER_S), json)


@app.command()
def extend(
    job: JobArgument,
    rounds: Annotated[int, typer.Option(min=1, max=MOST_ROUNDS, help="Number of rounds to add.")],
    folder: FolderOption = DEFAULT_FOLDER,
    json: JsonOption = False,
) -> None:
    """Give a job that has ended more rounds. It continues from its newest version."""
    with operator_service(folder) as service:
        _print_job(service.ExtendJob(ExtendJobRequest(job=job, rounds=rounds), timeout=ANSWER_S), json)


app.command("history")(job_records.history)
app.command("spec")(job_records.spec)


def _score(found: Evaluation) -> str:
    name = "perplexity" if found.HasField("perplexity") else found.metric
    return f"{main_figure(found)}{'' if name in ('', 'accuracy') else f' {name}'}"


def _changes(folder: Path, job: str, timeout: float | None) -> Iterator[Job]:
    with operator_service(folder) as service:
        stream = service.WatchJob(GetJobRequest(job=job), timeout=timeout)
        try:
            yield from stream
        finally:
            stream.cancel()


def _print_job(job: Job, json: bool) -> None:
    if json:
        print_json(as_dict(job))
    else:
        Console().print(render(job))


def _raise_unless_done(asked: str, job: Job | None) -> None:
    if job is None or job.state not in _ENDED:
        raise UnreachableError(
            f"the server went away before job {asked} ended; start it again with 'fwdllm-server serve' to continue it"
        )
    name = printable(job.name)
    if job.state == JOB_STATE_FAILED:
        # A job that failed for its job file fails again when it is resumed: that is bad input.
        kind = BadInputError if job.message.startswith(f"[{BadInputError.code}]") else JobFailedError
        raise kind(f"job {name} failed: {printable(job.message)}")
    if job.state == JOB_STATE_STOPPED:
        raise StoppedError(f"job {name} was stopped; resume it with 'fwdllm-server job resume {job.job_id}'")
