"""A device that may not work gives back what it has at hand: what it measured counts, others measure the rest."""

import pytest
from helpers.rig import derivative

from fwdllm.v1.device_pb2 import CheckInRequest
from fwdllm_common.job_choice import JobChoice
from fwdllm_server.rounds.delivery import take_back
from fwdllm_server.store import assignments
from fwdllm_server.store.rounds import Phase

HEAD_ONLY = {"blocks.peft": None, "blocks.head": {"directions": 60}}


@pytest.fixture
def given_back(make_rig):
    """a and b have sent their 20 directions and are idle, c has given back the last 15 of its own."""
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    a, b, c = rig.begin_round("a", "b", "c")
    rig.finish(a)
    rig.finish(b)
    rig.report(c.id, [derivative(seed) for seed in c.seeds[:5]])
    rig.check_in("a", "b")
    rig.hold("c")
    rig.settle()
    return rig, c


def still_counting(rig, device):
    with rig.database.transaction() as connection:
        return [found.id for found in assignments.counting_of_device(connection, device)]


def test_what_it_has_not_measured_is_handed_over_at_once(given_back):
    rig, c = given_back
    helping = rig.check_in("a", "b")

    assert sorted(seed for work in helping for seed in work.seeds) == c.seeds[5:]


def test_the_round_has_every_direction_once(given_back):
    rig, _ = given_back
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.settle()

    assert rig.phases() == [Phase.COMMITTED]
    assert len(rig.ledger()[0].updates[0].seeds) == 60
    assert rig.record.scalars_repeated == rig.record.scalars_late == 0


def test_scalars_that_were_under_way_still_count(given_back):
    rig, c = given_back

    assert still_counting(rig, "c") == [c.id]
    assert rig.report(c.id, [derivative(seed) for seed in c.seeds[5:7]], 5).accepted == 2


def test_until_the_round_closes(given_back):
    rig, c = given_back
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.settle()

    assert still_counting(rig, "c") == []
    assert rig.report(c.id, [0.5], 5).late == 1


def test_it_gets_work_of_the_same_round_when_it_is_back(make_rig):
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    a, b, c = rig.begin_round("a", "b", "c")
    rig.finish(a)
    rig.finish(b)
    rig.hold("c")
    rig.settle()
    assert rig.check_in("c") == []
    rig.settle()
    (again,) = rig.check_in("c")

    assert again.seeds == c.seeds


def test_what_it_never_fetched_is_given_back_as_well(make_rig):
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    rig.check_in("a", "b", "c")
    rig.settle()
    rig.hold("c")
    for work in rig.check_in("a", "b"):
        rig.finish(work)
    rig.check_in("a", "b")
    rig.settle()

    assert sum(work.directions for work in rig.check_in("a", "b")) == 20


def test_a_round_that_everybody_gives_back_waits_for_them(make_rig):
    rig = make_rig(HEAD_ONLY, count=1, assignment_s=100, deadline_s=1000)
    rig.begin_round("a", "b", "c")
    for device in "abc":
        rig.hold(device)
    rig.settle()
    rig.later(300)
    assert rig.round.phase == Phase.COLLECTING
    rig.check_in("a")
    rig.settle()

    assert rig.check_in("a")


def test_a_job_that_is_not_chosen_is_given_back_alone(make_rig):
    rig = make_rig(HEAD_ONLY, count=1)
    work = rig.begin_round("a", "b", "c")
    choice = JobChoice().deny(rig.job.name)
    with rig.database.transaction() as connection:
        take_back(connection, "a", CheckInRequest(jobs=choice.to_message()), {rig.job.id: rig.job})
        take_back(connection, "b", CheckInRequest(jobs=JobChoice().deny("another").to_message()), {rig.job.id: rig.job})

    states = {found.device_id: str(found.state) for found in rig.work_of_round()}
    assert states == {"a": "returned", "b": "taken", "c": "taken"}
    assert len(work) == 3
