import pytest
from helpers.rig import JOB

from fwdllm.v1 import device_pb2
from fwdllm_common.counts import Counts
from fwdllm_server.store import assignments, jobs
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState
from fwdllm_server.store.jobs import JobState


@pytest.fixture(autouse=True)
def _running(connection):
    jobs.set_state(connection, JOB, JobState.RUNNING, "", 0.0)


def task(first: int, count: int, block: str = "head") -> device_pb2.DirectionTask:
    return device_pb2.DirectionTask(block=block, seeds=[device_pb2.SeedRange(first=first, count=count)])


def offer(connection, device: str, number: int = 1, evaluate: bool = False, job: str = JOB) -> AssignmentRecord:
    assignments.offer(connection, job, number, device, [task(10, 2), task(90, 1, "peft")], evaluate, 500.0)
    return assignments.counting_of_device(connection, device)[-1]


def test_what_is_offered_is_what_the_device_finds(connection):
    work = offer(connection, "ann")

    assert (work.device_id, work.round, work.state) == ("ann", 1, AssignmentState.OFFERED)
    assert (work.seeds, work.directions) == ([10, 11, 90], 3)
    assert [part.block for part in work.tasks] == ["head", "peft"]
    assert assignments.get(connection, work.id) == work


def test_each_assignment_of_a_round_has_its_own_id(connection):
    for _ in range(12):
        offer(connection, "ann")

    assert len({work.id for work in assignments.of_round(connection, JOB, 1)}) == 12


@pytest.mark.parametrize(
    ("state", "is_open"),
    [
        (AssignmentState.OFFERED, True),
        (AssignmentState.TAKEN, True),
        (AssignmentState.DONE, False),
        (AssignmentState.EXPIRED, False),
    ],
)
def test_a_device_is_busy_while_its_assignment_is_open(connection, state, is_open):
    work = offer(connection, "ann")
    assignments.set_state(connection, work.id, state)

    assert (assignments.busy_devices(connection) == {"ann"}) is is_open
    assert any(found.open for found in assignments.counting_of_device(connection, "ann")) is is_open


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.FAILED])
def test_work_of_a_job_that_does_not_run_keeps_no_device_from_others(connection, state):
    offer(connection, "ann")
    jobs.set_state(connection, JOB, state, "", 0.0)

    assert assignments.busy_devices(connection) == frozenset()


def test_closing_a_round_expires_what_is_open_in_it_and_nothing_else(connection):
    done, open_one, other = offer(connection, "ann"), offer(connection, "bob"), offer(connection, "cid", 2)
    assignments.set_state(connection, done.id, AssignmentState.DONE)
    assignments.expire_open(connection, JOB, 1)
    states = [assignments.get(connection, work.id).state for work in (done, open_one, other)]

    assert states == [AssignmentState.DONE, AssignmentState.EXPIRED, AssignmentState.OFFERED]


def test_news_prolongs_only_the_assignment_it_is_of(connection):
    first, second = offer(connection, "ann"), offer(connection, "bob")
    assignments.prolong(connection, first.id, 900.0)

    assert assignments.get(connection, first.id).expires_at == 900.0
    assert assignments.get(connection, second.id).expires_at == 500.0


def test_federated_counts_are_of_the_last_round_that_has_any(connection):
    for device, number, correct in (("ann", 1, 1), ("ann", 2, 7), ("bob", 2, 8)):
        work = offer(connection, device, number, evaluate=True)
        assignments.evaluated(connection, work.id, Counts(correct, 10))
        assignments.set_state(connection, work.id, AssignmentState.DONE)
    offer(connection, "cid", 3, evaluate=True)

    assert assignments.federated_counts(connection, JOB) == Counts(15, 20)


def test_f1_is_added_up_where_spans_are_answers(connection):
    for device, exact, f1 in (("ann", 3, 4.5), ("bob", 2, 2.25)):
        work = offer(connection, device, 1, evaluate=True)
        assignments.evaluated(connection, work.id, Counts(exact, 10, f1))

    assert assignments.federated_counts(connection, JOB) == Counts(5, 20, 6.75)


def test_without_an_evaluation_the_counts_are_zero(connection):
    assert assignments.federated_counts(connection, JOB) == Counts(0, 0)
