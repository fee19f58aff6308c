"""The time that a job still takes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import JOB, Rig
from helpers.tiny_job import job_toml

from fwdllm.v1.operator_pb2 import Job
from fwdllm_server.coordinator.coordinator import set_extended
from fwdllm_server.store import jobs
from fwdllm_server.store.jobs import JobState
from fwdllm_server.views.job_status import job_message

ABC = ("a", "b", "c")
IDLE_S = 50_000.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig.create(tmp_path, job_toml({"rounds": {"count": 5}}))
    yield made
    made.database.close()


def status(rig: Rig) -> Job:
    with rig.database.transaction() as connection:
        return job_message(connection, jobs.required(connection, JOB), rig.now)


def work(rig: Rig) -> None:
    """Do a round in 10 seconds."""
    begun = rig.begin_round(*ABC)
    rig.now += 10
    for assignment in begun:
        rig.finish(assignment)
    rig.settle()


def test_a_job_that_was_paused_takes_as_long_as_its_rounds(rig):
    work(rig)
    work(rig)
    assert status(rig).seconds_left == 30
    with rig.database.transaction() as connection:
        jobs.paused(connection, JOB)
    rig.later(IDLE_S)
    with rig.database.transaction() as connection:
        jobs.resumed(connection, JOB, rig.now)
    rig.settle()
    assert status(rig).seconds_left == 0

    work(rig)
    assert status(rig).seconds_left == 20


def test_a_job_that_is_extended_takes_as_long_as_its_new_rounds(rig):
    work(rig)
    with rig.database.transaction() as connection:
        jobs.set_state(connection, JOB, JobState.STOPPED, "", rig.now)
    rig.now += IDLE_S
    with rig.database.transaction() as connection:
        set_extended(connection, JOB, 3, rig.now)
    again = Rig(rig.database, rig.artifacts, rig.now)
    again.settle()

    work(again)
    assert status(again).seconds_left == 60
