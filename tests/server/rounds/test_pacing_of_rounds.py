"""Variance-controlled pacing, seen from the rounds: a round goes on until its estimate is good enough."""

from helpers.rig import JOB, Rig

from fwdllm_server.store import assignments
from fwdllm_server.store.rounds import Phase

ABC = ("a", "b", "c")
STRICT = {"blocks.peft": {"max_directions": 15, "variance_threshold": 1e-9}}


def finish(rig: Rig, work):
    for assignment in work:
        rig.finish(assignment)
    rig.settle()


def take_a_step_more(rig: Rig):
    rig.check_in(*ABC)
    rig.settle()
    finish(rig, rig.check_in(*ABC))


def wanted(rig: Rig):
    return {plan.block: plan.wanted for plan in rig.round.plan}


def test_a_poor_estimate_asks_for_more_directions_in_its_block_only(make_rig):
    rig = make_rig(STRICT)
    finish(rig, rig.begin_round(*ABC))

    assert (rig.round.phase, wanted(rig)) == (Phase.COLLECTING, {"peft": 12, "head": 9})


def test_the_round_tells_the_estimate_that_decided(make_rig):
    rig = make_rig(STRICT)
    finish(rig, rig.begin_round(*ABC))

    assert "above 1e-09" in rig.round.reason
    assert rig.round.variance > rig.round.variance_threshold == 1e-9


def test_a_round_stops_at_its_maximum_and_commits_all_it_has(make_rig):
    rig = make_rig(STRICT, count=1)
    finish(rig, rig.begin_round(*ABC))
    for _ in range(2):
        take_a_step_more(rig)

    assert rig.phases() == [Phase.COMMITTED]
    assert {update.block: len(update.seeds) for update in rig.ledger()[0].updates} == {"peft": 15, "head": 9}


def test_a_good_estimate_commits_at_once(make_rig):
    rig = make_rig({"blocks.peft": {"max_directions": 60, "variance_threshold": 1e9, "pacing": "absolute"}}, count=1)
    finish(rig, rig.begin_round(*ABC))

    assert rig.phases() == [Phase.COMMITTED]
    assert "within 1e+09" in rig.round.reason


def test_a_step_more_keeps_what_is_there_and_asks_for_new_seeds(make_rig):
    rig = make_rig(STRICT)
    finish(rig, rig.begin_round(*ABC))
    first = {seed for work in rig.work_of_round() for seed in work.seeds}
    rig.check_in(*ABC)
    rig.settle()
    more = [seed for work in rig.check_in(*ABC) for seed in work.seeds]

    assert len(set(more)) == len(more) == 6
    assert first.isdisjoint(more)


def test_a_step_more_is_shared_by_the_devices_not_left_to_the_first_that_comes(make_rig):
    rig = make_rig(STRICT)
    finish(rig, rig.begin_round(*ABC))
    for device in ABC:  # one after the other, as they do
        rig.check_in(device)
        rig.settle()

    assert [work.directions for work in rig.check_in(*ABC)] == [2, 2, 2]


def test_a_step_more_is_done_by_one_device_if_the_others_are_gone(make_rig):
    rig = make_rig(STRICT, count=1)
    finish(rig, rig.begin_round(*ABC))
    for _ in range(20):
        rig.check_in("a")
        rig.settle()
        finish(rig, rig.check_in("a"))

    assert rig.phases() == [Phase.COMMITTED]


def test_every_step_has_the_whole_time(make_rig):
    rig = make_rig(STRICT, deadline_s=100)
    work = rig.begin_round(*ABC)
    rig.now += 25
    finish(rig, work)

    assert rig.round.phase_since == rig.now


def test_directions_asked_for_in_vain_do_not_cost_the_round(make_rig):
    """Its first step was complete; that nobody answers the second is no reason to throw the first away."""
    rig = make_rig(STRICT, count=1, min_fraction=0.9, deadline_s=100)
    finish(rig, rig.begin_round(*ABC))
    rig.later(100)

    assert rig.phases() == [Phase.COMMITTED]


def test_a_device_that_takes_two_steps_evaluates_once(make_rig):
    rig = make_rig(STRICT, federated_evaluate_every=1)
    finish(rig, rig.begin_round(*ABC))
    rig.check_in(*ABC)
    rig.settle()
    rig.check_in(*ABC)
    with rig.database.transaction() as connection:
        work = assignments.of_round(connection, JOB, 1)

    assert sorted(each.device_id for each in work if each.evaluate) == list(ABC)
