"""``fwdllm-server top`` against a scripted server on real mutual TLS, and on a terminal."""

import asyncio
import io
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from server.cli.scripted import DONE, running

from fwdllm.v1.conditions_pb2 import THERMAL_STATE_LIGHT, Conditions
from fwdllm.v1.operator_pb2 import Device
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.top import lines, picture

WORKING = Device(
    device_id="dev-1",
    name="pixel7\x1b[31m",
    state="working",
    conditions=Conditions(charging=True, battery_percent=80, thermal=THERMAL_STATE_LIGHT),
    last_seen_unix_s=1_700_000_000,
)
HELD = Device(
    device_id="dev-2", name="old-laptop", state="held", reasons=["low_battery", "metered"], conditions=Conditions()
)
DEVICES = [WORKING, HELD, Device(device_id="dev-3", name="new", state="away", reasons=["away"])]


async def test_once_prints_lines_for_jobs_that_run_and_a_sum_of_the_devices(stage, cli):
    stage.service.jobs, stage.service.devices = [running(), DONE], DEVICES
    result = await cli("top", "--once")

    assert result.code == 0
    summary, job = result.out.splitlines()
    assert summary == (
        "2 jobs (1 running, 1 done); 3 devices (1 working, 1 held, 1 away); "
        "no work for: low battery 1, metered 1, away 1"
    )
    assert job.startswith("news running: round 3 collecting on 2 devices")


async def test_json_has_everything_for_programs(stage, cli):
    stage.service.devices = DEVICES
    [facts] = (await cli("top", "--once", "--json")).json_lines

    assert facts["jobs"][0]["round"]["variance_threshold"] == 0.5
    assert [device["state"] for device in facts["devices"]] == ["working", "held", "away"]
    assert facts["devices"][1]["reasons"] == ["low_battery", "metered"]


def test_a_terminal_shows_jobs_and_devices():
    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=140, height=40), whole_screen=True) as display:
        display.show(picture([running()], DEVICES), {})
    shown = screen.getvalue()

    for words in ("64/256", "1.25 (wanted at most 0.5)", "accuracy 50.0%", "pixel7?[31m", "charging 80% light"):
        assert words in shown
    for words in ("low battery, metered", "1.0 kB", "47.0 MB", "never"):
        assert words in shown
    assert shown.index("pixel7") < shown.index("old-laptop")


def test_a_file_gets_a_line_for_a_step_and_for_other_devices():
    file = io.StringIO()
    with Display(Console(file=file, width=40)) as display:
        for job, devices in ((running(), DEVICES), (running(collected=65), DEVICES), (running(message="!"), [HELD])):
            display.show("", lines([job], devices))

    summary, job, fewer, job_again = file.getvalue().splitlines()
    assert summary.startswith("1 job (1 running); 3 devices")
    assert fewer.startswith("1 job (1 running); 1 device")
    assert ["64/256" in job, job_again.endswith("!")] == [True, True]


def test_nothing_yet_is_said_too():
    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=100)) as display:
        display.show(picture([], []), {})
    assert "0 jobs; 0 devices" in screen.getvalue()
    assert "no job is running" in screen.getvalue()


@pytest.mark.parametrize("arguments", [["--json"], []])
async def test_it_goes_on_until_ctrl_c(stage, home, arguments):
    program = "from fwdllm_server.cli import main; main()"
    command = [sys.executable, "-c", program, "top", "--every", "0.2", "--dir", str(home.folder)]
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
