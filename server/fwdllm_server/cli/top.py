"""``fwdllm-server top``: show every running job and every device, live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from fwdllm.v1.operator_pb2 import (
    Device,
    Job,
    ListDevicesRequest,
    ListJobsRequest,
)
from fwdllm_server.cli.calls import ANSWER_S, operator_service
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.formatting import duration, printable, size
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from fwdllm_server.cli.progress import ACTIVE, line, render, state_word, step
from fwdllm_server.views.message_json import as_dict, print_json

_STATES = ("working", "idle", "held", "away", "revoked")
_ORDER = {state: at for at, state in enumerate(_STATES)}
_STYLES = {"working": "blue", "idle": "green", "held": "yellow", "away": "dim", "revoked": "red"}
_DEVICES = 200
"""Largest number of devices shown; a terminal has fewer lines."""


def top(
    folder: FolderOption = DEFAULT_FOLDER,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show the state once and exit.")] = False,
    json: JsonOption = False,
) -> None:
    """Watch every running job and every device, until Ctrl-C. Prints plain lines if not on a terminal."""
    with operator_service(folder) as service, Display(Console(quiet=json), whole_screen=not once) as display:
        while True:
            jobs = service.ListJobs(ListJobsRequest(), timeout=ANSWER_S).jobs
            devices = service.ListDevices(ListDevicesRequest(), timeout=ANSWER_S).devices
            if json:
                print_json({"jobs": [as_dict(job) for job in jobs], "devices": [as_dict(each) for each in devices]})
            else:
                display.show(picture(jobs, devices), lines(jobs, devices))
            if once:
                return
            time.sleep(every)


def picture(jobs: Sequence[Job], devices: Sequence[Device]) -> RenderableType:
    """Render all jobs that run and all devices, for a terminal."""
    active = _active(jobs)
    parts: list[RenderableType] = [Text(_summary(jobs, devices), style="bold")]
    for job in active:
        parts += [Rule(style="dim"), render(job)]
    if not active:
        parts += [Rule(style="dim"), Text("no job is running", style="dim")]
    if devices:
        parts += [Rule(style="dim"), _table(active, devices)]
    return Group(*parts)


def lines(jobs: Sequence[Job], devices: Sequence[Device]) -> Mapping[Hashable, str]:
    """Return a line of summary and one for each running job. The key of a line changes when its facts do."""
    summary = _summary(jobs, devices)
    return {summary: summary, **{step(job): line(job) for job in _active(jobs)}}


def _active(jobs: Sequence[Job]) -> Sequence[Job]:
    return [job for job in jobs if job.state in ACTIVE]


def _summary(jobs: Sequence[Job], devices: Sequence[Device]) -> str:
    job_states = Counter(state_word(job) for job in jobs)
    states = Counter(device.state for device in devices)
    reasons = Counter(reason.replace("_", " ") for device in devices for reason in device.reasons)
    parts = [
        f"{len(jobs)} job{'s' * (len(jobs) != 1)}"
        + (f" ({', '.join(f'{count} {state}' for state, count in job_states.items())})" if jobs else ""),
        f"{len(devices)} device{'s' * (len(devices) != 1)}"
        + (f" ({', '.join(f'{states[state]} {state}' for state in _STATES if states[state])})" if devices else ""),
    ]
    if reasons:
        parts.append(f"no work for: {', '.join(f'{reason} {count}' for reason, count in reasons.most_common())}")
    return "; ".join(map(printable, parts))


def _table(active: Sequence[Job], devices: Sequence[Device]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for title in ("DEVICE", "STATE", "WHY", "CONDITIONS", "SEEN"):
        table.add_column(
            title, no_wrap=title not in ("WHY", "CONDITIONS")
        )  # only these two may wrap in a narrow terminal
    for title in ("SCALARS", "SECONDS", "PEAK", "SENT", "RECEIVED"):
        table.add_column(title, no_wrap=True, justify="right")
    ordered = sorted(devices, key=lambda device: (_ORDER.get(device.state, len(_STATES)), device.name))
    now = time.time()
    for device in ordered[:_DEVICES]:
        spent = [usage for job in active for usage in job.devices if usage.device_id == device.device_id]
        table.add_row(
            printable(device.name),
            Text(device.state, style=_STYLES.get(device.state, "")),
            printable(", ".join(reason.replace("_", " ") for reason in device.reasons if reason != device.state)),
            _conditions(device),
            duration(max(0.0, now - device.last_seen_unix_s)) if device.last_seen_unix_s else "never",
            str(sum(usage.scalars for usage in spent)),
            f"{sum(usage.seconds for usage in spent):.0f}",
            size(max((usage.peak_rss_bytes for usage in spent), default=0)),
            size(sum(usage.bytes_sent for usage in spent)),
            size(sum(usage.bytes_received + usage.artifact_bytes for usage in spent)),
        )
    return table


def _conditions(device: Device) -> str:
    if not device.HasField("conditions"):
        return "-"
    said = as_dict(device.conditions)
    words = [
        {True: "charging", False: "on battery"}.get(said["charging"], ""),
        f"{said['battery_percent']:.0f}%" if said["battery_percent"] is not None else "",
        "metered" if said["metered"] else "",
        said["thermal"] if said["thermal"] not in ("unspecified", "none") else "",
    ]
    return " ".join(word for word in words if word) or "-"
