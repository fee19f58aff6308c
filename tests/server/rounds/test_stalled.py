"""A job that waits for what may never come says so to everyone who asks."""

from __future__ import annotations

import pytest
from helpers.rig import JOB, Rig
from structlog.testing import capture_logs

from fwdllm.v1.operator_pb2 import Job
from fwdllm_server.cli.progress import line, step
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.dashboard import documents
from fwdllm_server.rounds.stalled import STALLED_S, StallLog, why_stalled
from fwdllm_server.store import jobs
from fwdllm_server.store.rounds import Phase
from fwdllm_server.views.job_status import job_message

ABC = ("a", "b", "c")
LACKING = "waiting for devices: 2 of 3 are here"


def status(rig: Rig) -> Job:
    with rig.database.transaction() as connection:
        record = jobs.get(connection, JOB)
        assert record is not None
        return job_message(connection, record, rig.now)


@pytest.fixture
def lacking(make_rig) -> Rig:
    """One round is done, and then one of three devices is gone."""
    rig = make_rig(count=9)
    for work in rig.begin_round(*ABC):
        rig.finish(work)
    rig.settle()
    rig.now += 1
    rig.presence.leave("c")
    rig.check_in("a", "b")
    rig.settle()
    return rig


def test_waiting_for_a_short_while_is_the_ordinary_course_of_things(lacking):
    lacking.later(STALLED_S - 2)

    assert status(lacking).message == ""
    assert status(lacking).seconds_left > 0


def test_status_and_watch_say_what_a_job_waits_for_and_no_time_that_is_left(lacking):
    before = step(status(lacking))
    lacking.later(STALLED_S)
    now = status(lacking)

    assert (now.message, now.seconds_left) == (LACKING, 0)
    assert step(now) != before  # plain lines are told again
    assert line(now).endswith(LACKING)
    assert "on 0 devices" not in line(now)


def test_the_dashboard_says_it_too(lacking):
    lacking.later(STALLED_S)
    with lacking.database.transaction() as connection:
        (job,) = documents.overview(connection, CheckInSection(), lacking.now)["jobs"]

    assert job["message"] == LACKING


def test_a_round_whose_devices_are_all_gone_says_what_it_lacks(make_rig):
    rig = make_rig(assignment_s=40.0, deadline_s=1000.0)
    first, *_ = rig.begin_round(*ABC)
    rig.finish(first)
    rig.later(39)
    assert status(rig).message == ""
    rig.later(1)

    assert rig.round.phase == Phase.COLLECTING
    assert status(rig).message == (
        "no device works on round 1: 5 of 15 directions are measured, "
        "and the next device that checks in gets the missing ones"
    )


def test_a_job_that_is_paused_or_has_ended_waits_for_nothing(lacking):
    lacking.later(STALLED_S)
    with lacking.database.transaction() as connection:
        jobs.paused(connection, JOB)
        record = jobs.get(connection, JOB)
        assert record is not None
        assert why_stalled(connection, record, lacking.now) == ""


def test_the_log_has_a_line_for_each_state_that_lasts():
    log = StallLog("news")
    with capture_logs() as lines:
        for why in ("", LACKING, LACKING, "waiting for devices: 1 of 3 are here", "", ""):
            log.update(why)

    assert [(each["event"], each.get("reason")) for each in lines] == [
        ("job waits", LACKING),
        ("job waits", "waiting for devices: 1 of 3 are here"),
        ("job continues", None),
    ]
