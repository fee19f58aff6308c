"""Show a job's progress, as a picture or as a line."""

from __future__ import annotations

import math
from collections.abc import Hashable

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fwdllm.v1.operator_pb2 import (
    JOB_STATE_PAUSED,
    JOB_STATE_PREPARING,
    JOB_STATE_RUNNING,
    DeviceUsage,
    Evaluation,
    Job,
)
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.formatting import duration, energy, printable, size
from fwdllm_server.views.message_json import enum_word
from fwdllm_server.views.privacy_words import budget_words

ACTIVE = (JOB_STATE_PREPARING, JOB_STATE_RUNNING)
"""States of a job that the server works on."""
_GOING_ON = (*ACTIVE, JOB_STATE_PAUSED)


def state_word(job: Job) -> str:
    """Return the name of the job's state: ``running``, ``done`` and so on."""
    return enum_word(Job.DESCRIPTOR.fields_by_name["state"], job.state)


def render(job: Job) -> RenderableType:
    """Render the job in a few lines, with a progress bar of the round's directions."""
    title = Text.assemble((printable(job.name), "bold"), f"  {state_word(job)}  ", (job.job_id, "dim"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    if job.same_name:
        table.add_row("same name", Text(f"{', '.join(job.same_name)}: refer to them by id"))
    table.add_row("round", Text(_round(job)))
    if job.HasField("round"):
        table.add_row("directions", _bar(job))
        table.add_row("variance", Text(_variance(job)))
    if job.HasField("latest_evaluation"):
        table.add_row("held out", Text(_evaluation(job)))
    table.add_row("traffic", Text(_traffic(job)))
    table.add_row("energy", Text(_energy(job)))
    table.add_row("time", Text(_time(job)))
    if job.privacy:
        table.add_row("privacy", Text(job.privacy))
    if job.HasField("privacy_budget"):
        table.add_row("budget", Text(budget_words(job.privacy_budget)))
    if noisy := _noisy(job):
        table.add_row("not used", Text(noisy))
    if failing := _failing(job):
        table.add_row("cannot", Text(failing))
    if job.message:
        table.add_row("message", Text(printable(job.message)))
    return Group(title, table)


def line(job: Job) -> str:
    """Format the job as one line."""
    rounds = "round" if job.state in _GOING_ON else "rounds"
    parts = [f"{printable(job.name)} {state_word(job)}: {rounds} {_round(job)}"]
    if job.HasField("round"):
        parts += [f"{_directions(job)} directions", f"variance {_variance(job)}"]
    if job.HasField("latest_evaluation"):
        parts.append(_evaluation(job))
    parts += [_traffic(job), *([_energy(job)] if _measuring(job) else []), _time(job)]
    if noisy := _noisy(job):
        parts.append(f"not used {noisy}")
    if failing := _failing(job):
        parts.append(f"cannot do it: {failing}")
    if job.message:
        parts.append(printable(job.message))
    return ", ".join(parts)


def show_job(display: Display, job: Job) -> None:
    """Show the current state of a job on ``display``."""
    display.show(render(job), {step(job): line(job)})


def step(job: Job) -> Hashable:
    """Return a key of those facts about a job whose change is worth a new line."""
    return (
        job.job_id,
        job.state,
        job.rounds_committed,
        job.rounds_abandoned,
        job.latest_evaluation.version,
        job.message,
    )


def _round(job: Job) -> str:
    if not job.HasField("round"):
        return f"0 of {job.rounds_wanted}"
    abandoned = f" ({job.rounds_abandoned} abandoned)" if job.rounds_abandoned else ""
    if job.state not in _GOING_ON:
        return f"{job.rounds_committed} of {job.rounds_wanted} done{abandoned}"
    devices = f" on {job.round.devices} device{'s' * (job.round.devices != 1)}" if job.round.devices else ""
    # Abandoned rounds are numbered too, so that the number may exceed the wanted count.
    return (
        f"{job.round.number} {job.round.phase}{devices}, {job.rounds_committed} of {job.rounds_wanted} done{abandoned}"
    )


def _directions(job: Job) -> str:
    return f"{job.round.directions_collected}/{job.round.directions_wanted}"


def _bar(job: Job) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    wanted, collected = job.round.directions_wanted, job.round.directions_collected
    row.add_row(ProgressBar(total=max(wanted, 1), completed=min(collected, wanted), width=40), _directions(job))
    return row


def _variance(job: Job) -> str:
    threshold = job.round.variance_threshold
    if not job.round.HasField("variance"):
        return "not computed yet"
    bounded = math.isfinite(threshold) and threshold > 0
    return f"{job.round.variance:.3g}" + (f" (wanted at most {threshold:.3g})" if bounded else "")


def _evaluation(job: Job) -> str:
    latest = job.latest_evaluation
    text = f"{score(latest)}, loss {latest.loss:.4f}"
    if job.HasField("initial_evaluation"):
        text += f" (began at {main_figure(job.initial_evaluation)}, best {main_figure(job.best_evaluation)})"
    if latest.federated_rows:
        text += f", on devices {latest.federated_accuracy:.1%}"
    return text


def score(found: Evaluation) -> str:
    """Format the metrics of the task: perplexity if it has one, the main one, and what is beside that."""
    parts = [f"perplexity {found.perplexity:.4g}"] if found.HasField("perplexity") else []
    parts.append(f"{found.metric or 'accuracy'} {found.accuracy:.1%}")
    if found.HasField("exact_match"):
        parts.append(f"{found.metric_beside or 'exact match'} {found.exact_match:.1%}")
    return ", ".join(parts)


def main_figure(found: Evaluation) -> str:
    """Format the one figure by which versions are compared, without its name."""
    return f"{found.perplexity:.4g}" if found.HasField("perplexity") else f"{found.accuracy:.1%}"


def _traffic(job: Job) -> str:
    up = sum(device.bytes_sent for device in job.devices)
    down = sum(device.bytes_received for device in job.devices)
    model = sum(device.artifact_bytes for device in job.devices)
    return f"up {size(up)}, down {size(down)}" + (f", model files {size(model)}" if model else "")


def _measuring(job: Job) -> list[DeviceUsage]:
    return [device for device in job.devices if device.HasField("joules")]


def _energy(job: Job) -> str:
    measuring = _measuring(job)
    if not measuring:
        return "not measured"
    on = "" if len(measuring) == len(job.devices) else f", on {len(measuring)} of {len(job.devices)} devices"
    return f"{energy(sum(device.joules for device in measuring))} used while computing{on}"


def _noisy(job: Job) -> str:
    found = [
        f"{device.device_id} (signal to noise {device.signal_to_noise:.2g})" for device in job.devices if device.noisy
    ]
    return ", ".join(found) + ": failed the known-answer test" if found else ""


def _failing(job: Job) -> str:
    """List the devices that cannot do the job, grouped by cause."""
    causes: dict[str, list[str]] = {}
    for device in job.devices:
        if device.failure:
            causes.setdefault(printable(device.failure), []).append(device.device_id)
    return "; ".join(f"{', '.join(devices)} ({cause})" for cause, devices in causes.items())


def _time(job: Job) -> str:
    left = f", about {duration(job.seconds_left)} left" if job.seconds_left > 0 else ""
    return f"{duration(job.seconds_running)} so far{left}"
