"""Time and count bounds: what a round does when devices do not."""

from math import inf

import pytest
from helpers.rig import JOB, derivative
from structlog.testing import capture_logs

from fwdllm_server.store import scalars
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.job_devices import LONGEST_REST_S
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

ABC = ("a", "b", "c")


def selected(rig, *devices):
    rig.check_in(*devices)
    rig.settle()


# accepting


def test_a_round_waits_for_all_to_fetch_their_assignment(make_rig):
    rig = make_rig(accept_s=10)
    selected(rig, *ABC)
    rig.check_in("a", "b")
    step = rig.later(4)

    assert (rig.round.phase, step.look_again_s) == (Phase.ASSIGNED, 6)


def test_where_too_few_fetch_theirs_others_are_selected(make_rig):
    rig = make_rig(accept_s=10)
    selected(rig, *ABC)
    rig.check_in("a", "b")
    before = rig.job.state.digest
    rig.later(10)

    assert (rig.phases(), rig.round.version, rig.job.state.digest) == ([Phase.SELECTING], 0, before)
    selected(rig, "a", "b", "c")
    assert rig.round.reason == (
        "waiting for devices: 2 of 3 are here; 1 sent nothing for their last assignment and rest for now"
    )
    selected(rig, "a", "b", "d")
    assert {work.device_id for work in rig.work_of_round() if work.open} == {"a", "b", "d"}


def test_scalars_of_a_selection_before_are_late(make_rig):
    rig = make_rig(accept_s=10)
    selected(rig, *ABC)
    first, second = rig.check_in("a", "b")
    rig.report(first.id, [derivative(first.seeds[0])])
    rig.later(10)
    selected(rig, "a", "b", "d")

    assert (rig.finish(second).accepted, rig.finish(second).stop) == (0, True)
    for work in rig.check_in("a", "b", "d"):
        rig.finish(work)
    rig.settle()
    assert rig.phases()[0] == Phase.COMMITTED


def test_who_did_not_fetch_is_left_alone_for_longer_and_longer(make_rig):
    rig = make_rig(accept_s=10)
    waits = []
    for _ in range(4):
        selected(rig, *ABC)
        waits.append(rig.later(10).look_again_s)
        rig.now += waits[-1]

    assert waits == [10, 20, 40, 80]


def test_who_fetched_nothing_in_time_is_done_without(make_rig):
    rig = make_rig(accept_s=10, min_devices=2)
    selected(rig, *ABC)
    rig.check_in("a", "b")
    rig.later(10)

    assert rig.round.phase == Phase.COLLECTING
    assert [work.state for work in rig.work_of_round()] == ["taken", "taken", "expired"]


def test_early_scalars_count_while_others_still_fetch_their_assignment(make_rig):
    rig = make_rig()
    selected(rig, *ABC)
    (work,) = rig.check_in("a")

    assert rig.finish(work).accepted == 5


# the deadline


def report_first(rig, work, count):
    assert rig.report(work.id, [derivative(seed) for seed in work.seeds[:count]]).accepted == count


@pytest.mark.parametrize(("finished", "phase"), [(5, Phase.ABANDONED), (6, Phase.COMMITTED)])
def test_at_the_deadline_a_round_commits_if_enough_is_in(make_rig, finished, phase):
    """15 directions are wanted, two in five of them suffice."""
    rig = make_rig(min_fraction=0.4, deadline_s=100, assignment_s=1000)
    first, second, _ = rig.begin_round(*ABC)
    report_first(rig, first, 4)
    report_first(rig, second, finished - 4)
    assert rig.settle().look_again_s == 100
    rig.later(99)
    assert rig.round.phase == Phase.COLLECTING

    rig.later(1)
    assert rig.phases()[0] == phase


def test_what_is_committed_at_the_deadline_is_what_was_in(make_rig):
    rig = make_rig(min_fraction=0.3, deadline_s=100, assignment_s=1000)
    first, *_ = rig.begin_round(*ABC)
    rig.finish(first)
    rig.later(100)
    seeds = [int(seed) for update in rig.ledger()[0].updates for seed in update.seeds]

    assert sorted(seeds) == sorted(first.seeds)


def test_a_block_without_any_scalar_takes_no_step(make_rig):
    rig = make_rig({"blocks.peft": {"directions": 1}}, min_fraction=0.3, deadline_s=100, assignment_s=1000)
    first, *_ = rig.begin_round(*ABC)
    assert {task.block for task in first.tasks} == {"head"}
    rig.report(first.id, [0.5] * 3)
    second = rig.work_of_round()[1]
    rig.report(second.id, [0.5] * 3 if {task.block for task in second.tasks} == {"head"} else [])
    rig.later(100)

    assert [update.block for update in rig.ledger()[0].updates] == ["head"]


def test_scalars_of_an_abandoned_round_are_gone_and_their_devices_free(make_rig):
    rig = make_rig(min_fraction=1, deadline_s=100, assignment_s=1000)
    first, *_ = rig.begin_round(*ABC)
    rig.finish(first)
    rig.later(100)
    with rig.database.transaction() as connection:
        assert scalars.count(connection, JOB, 1) == 0

    assert [work.round for work in rig.begin_round(*ABC)] == [2, 2, 2]


# abandoning for good


def let_abandon(rig):
    """Nobody reports anything until the deadline."""
    rig.begin_round(*ABC)
    return rig.later(100)


def test_a_job_fails_after_too_many_abandoned_rounds_in_a_row(make_rig):
    rig = make_rig(deadline_s=100, assignment_s=1000, max_abandoned=2)
    with capture_logs() as lines:
        for _ in range(3):
            assert rig.record.state == JobState.RUNNING
            step = let_abandon(rig)
            rig.now += LONGEST_REST_S

    assert step.job_ended
    assert rig.record.state == JobState.FAILED
    assert rig.record.message == (
        "3 rounds in a row were abandoned, the last because deadline: 0 of 15 directions are in; "
        "fix the cause and resume the job"
    )
    said = [(line["round"], line["reason"], line["in_a_row"]) for line in lines if line["event"] == "round abandoned"]
    assert said == [(number, "deadline: 0 of 15 directions are in", number) for number in (1, 2, 3)]


def test_a_committed_round_takes_the_abandoned_ones_off_the_count(make_rig):
    rig = make_rig(count=9, deadline_s=100, assignment_s=1000, max_abandoned=1)
    for _ in range(3):
        let_abandon(rig)
        rig.now += LONGEST_REST_S
        for work in rig.begin_round(*ABC):
            rig.finish(work)
        rig.settle()

    assert rig.phases() == [Phase.ABANDONED, Phase.COMMITTED] * 3 + [Phase.SELECTING]
    assert rig.record.state == JobState.RUNNING


def test_an_abandoned_round_costs_no_step_of_the_schedule(make_rig):
    rig = make_rig({"optimizer": {"schedule": "linear"}}, count=2, deadline_s=100, assignment_s=1000)
    let_abandon(rig)
    rig.begin_round(*ABC)

    assert [plan.learning_rate for plan in rig.round.plan] == [0.1, 0.2]


# assignments without news


def test_an_assignment_without_news_goes_to_another_device(make_rig):
    rig = make_rig(assignment_s=30)
    first, second, lost = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    assert rig.settle().look_again_s == 30
    rig.check_in("d")
    rig.later(30)
    (again,) = rig.check_in("d")

    assert again.seeds == lost.seeds
    rig.finish(again)
    rig.settle()
    assert rig.phases()[0] == Phase.COMMITTED


def test_only_what_is_missing_is_given_away(make_rig):
    rig = make_rig(assignment_s=30)
    first, second, lost = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    report_first(rig, lost, 2)
    rig.check_in("d")
    rig.later(30)

    assert rig.check_in("d")[0].seeds == lost.seeds[2:]


def test_the_device_that_let_it_expire_gets_nothing_more_of_the_round(make_rig):
    rig = make_rig(assignment_s=30)
    first, second, _lost = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    rig.later(30)

    assert rig.check_in("c") == []
    rig.settle()
    assert rig.check_in("c") == []


def test_without_a_new_device_those_of_the_round_take_over(make_rig):
    rig = make_rig(assignment_s=30)
    first, second, lost = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    rig.check_in("a", "b", "c")
    rig.later(30)
    taken_over = rig.check_in("a", "b", "c")

    assert {work.device_id for work in taken_over} == {"a", "b"}
    assert sorted(seed for work in taken_over for seed in work.seeds) == sorted(lost.seeds)


def test_news_of_an_assignment_keep_it(make_rig):
    rig = make_rig(assignment_s=30, deadline_s=1000)
    first, second, slow = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    for index, seed in enumerate(slow.seeds):
        rig.later(20)
        assert rig.report(slow.id, [derivative(seed)], first_index=index).accepted == 1
    rig.settle()

    assert rig.phases()[0] == Phase.COMMITTED


def test_work_that_was_given_away_is_looked_after_too(make_rig):
    """The second device to let it down is noticed after a quarter of ``assignment_s``, with nobody to remind us."""
    rig = make_rig(assignment_s=30, deadline_s=1000)
    first, second, _lost = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    rig.check_in("d")
    step = rig.later(30)

    assert step.look_again_s == 7.5


def test_unusable_scalars_send_the_rest_to_others(make_rig):
    rig = make_rig()
    first, second, bad = rig.begin_round(*ABC)
    rig.finish(first)
    rig.finish(second)
    assert rig.report(bad.id, [0.5, float("nan"), 0.5, 0.5, 0.5]).accepted == 4
    rig.check_in("d")
    rig.settle()
    (again,) = rig.check_in("d")

    assert again.seeds == [bad.seeds[1]]


@pytest.mark.parametrize(("assignment_s", "state"), [(1000, AssignmentState.UNNEEDED), (300, AssignmentState.EXPIRED)])
def test_an_open_assignment_of_a_closed_round_is_not_needed_or_was_silent_for_too_long(make_rig, assignment_s, state):
    rig = make_rig(min_fraction=0.3, deadline_s=100, assignment_s=assignment_s)
    first, *_ = rig.begin_round(*ABC)
    rig.finish(first)
    rig.later(100)

    assert [work.state for work in rig.work_of_round(1)] == [AssignmentState.DONE, state, state]


def test_a_round_that_waits_for_devices_is_looked_at_when_one_comes(make_rig):
    assert make_rig().settle().look_again_s == inf
