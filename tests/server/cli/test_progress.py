import io
import math

import pytest
from rich.console import Console
from server.cli.scripted import DONE, running

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, JOB_STATE_PREPARING, Device, Job
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.formatting import duration, energy, size
from fwdllm_server.cli.progress import line, render, show_job
from fwdllm_server.views.message_json import as_dict


def test_a_terminal_shows_a_bar_and_the_last_state_stays():
    screen = io.StringIO()
    with Display(Console(file=screen, force_terminal=True, width=100)) as display:
        show_job(display, running())
        show_job(display, DONE)
    shown = screen.getvalue()

    assert "━" in shown
    assert "64/256" in shown
    assert shown.rindex("256/256") > shown.rindex("64/256")


def test_a_file_gets_a_line_for_a_step_and_none_for_each_scalar():
    file = io.StringIO()
    with Display(Console(file=file, width=40)) as display:
        for collected in range(5):
            show_job(display, running(collected=collected))
        show_job(display, DONE)

    assert file.getvalue() == f"{line(running(collected=0))}\n{line(DONE)}\n"


def test_one_line_says_it_all():
    assert line(running(message="waits")) == (
        "news running: round 3 collecting on 2 devices, 2 of 5 done, 64/256 directions, "
        "variance 1.25 (wanted at most 0.5), accuracy 50.0%, loss 1.2500 (began at 25.0%, best 62.5%), "
        "up 1.2 kB, down 2.5 MB, model files 45.0 MB, 1m20s so far, about 3m20s left, waits"
    )


def test_a_job_before_its_first_round_has_little_to_show():
    job = Job(name="news", state=JOB_STATE_PREPARING, rounds_wanted=5)

    assert line(job) == "news preparing: round 0 of 5, up 0 B, down 0 B, 0s so far"


def test_a_job_that_has_ended_is_told_by_what_is_done():
    """Its last round's number would count those that were abandoned."""
    job = running(101, state=JOB_STATE_DONE, rounds_committed=100, rounds_wanted=100, rounds_abandoned=1)

    assert line(job).startswith("news done: rounds 100 of 100 done (1 abandoned), ")


def test_what_was_not_measured_yet_is_not_shown_as_zero():
    job = running()
    job.round.ClearField("variance")

    assert "variance not computed yet, " in line(job)
    facts = as_dict(job)
    assert facts["round"]["variance"] is None
    assert facts["trainable_parameters"] is None
    assert facts["devices"][0]["signal_to_noise"] is None
    assert facts["devices"][0]["peak_rss_bytes"] is None
    assert as_dict(Device())["last_seen_unix_s"] is None


def test_other_jobs_of_the_same_name_are_named():
    screen = io.StringIO()
    Console(file=screen, width=100).print(render(running(same_name=["old-1", "old-2"])))

    assert "old-1, old-2: refer to them by id" in screen.getvalue()


def test_energy_is_that_of_the_devices_that_measure_it():
    screen = io.StringIO()
    job = running()
    Console(file=screen, width=100).print(render(job))
    assert "not measured" in screen.getvalue()
    job.devices[0].joules = 5400.0

    assert "1.5 Wh used while computing, on 1 of 2 devices, 1m20s" in line(job)


def test_no_threshold_is_not_shown():
    job = running()
    job.round.variance_threshold = math.inf

    assert "variance 1.25, " in line(job)


def test_a_device_that_is_not_used_is_named():
    job = running()
    job.devices.add(device_id="d7", signal_to_noise=0.14, noisy=True)

    assert "not used d7 (signal to noise 0.14): failed the known-answer test" in line(job)


def test_what_a_server_says_does_not_steer_the_terminal():
    assert "\x1b" not in line(running(message="\x1b[2J", name="a\x07"))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"), (2e12, "2.0 TB")],
)
def test_sizes(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("joules", "words"), [(420, "420 J"), (5400, "1.5 Wh"), (72_000, "20 Wh"), (8.28e6, "2.3 kWh")]
)
def test_energies(joules, words):
    assert energy(joules) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0s"), (59.6, "1m00s"), (200, "3m20s"), (3599.6, "1h00m"), (18_420, "5h07m"), (273_600, "3d04h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
