from math import inf

from fwdllm_server.rounds.presence import Present
from fwdllm_server.store.rounds import Phase

ALL = ("a", "b", "c", "d", "e")


def cohort(rig, number=None):
    return [work.device_id for work in rig.work_of_round(number)]


def test_a_round_waits_for_enough_devices(make_rig):
    rig = make_rig(min_devices=3)
    rig.check_in("a", "b")
    step = rig.settle()

    assert (step.moved, step.look_again_s, rig.round.phase) == (False, inf, Phase.SELECTING)
    assert rig.round.reason == "waiting for devices: 2 of 3 are here"


def test_a_round_begins_when_enough_devices_are_here(make_rig):
    rig = make_rig(min_devices=3)
    rig.check_in("a", "b", "c")
    rig.settle()

    assert (rig.round.phase, cohort(rig)) == (Phase.ASSIGNED, ["a", "b", "c"])


def test_a_device_that_left_is_not_waited_for_again(make_rig):
    rig = make_rig(min_devices=2)
    rig.check_in("a", "b")
    rig.presence.leave("b")
    rig.settle()

    assert rig.round.phase == Phase.SELECTING


def test_a_device_with_a_foreign_label_is_not_selected(make_rig):
    rig = make_rig(min_devices=1)
    rig.presence.seen(Present("a", rig.now, frozenset({"no", "maybe"})))
    rig.settle()
    assert rig.round.phase == Phase.SELECTING

    rig.check_in("b")
    rig.settle()
    assert cohort(rig) == ["b"]


def test_no_more_than_max_devices_are_selected_and_each_has_its_chance(make_rig):
    rig = make_rig(count=12, min_devices=2, max_devices=2)
    seen = set()
    for _ in range(12):
        for work in rig.begin_round(*ALL):
            seen.add(work.device_id)
            rig.finish(work)
        for device in ALL:  # nobody is here when the next round begins, so that it draws from all
            rig.presence.leave(device)
        rig.settle()

    assert all(len(cohort(rig, number)) == 2 for number in range(1, 13))
    assert seen == set(ALL)


def test_a_coordinator_that_died_while_selecting_draws_the_same_devices(make_rig):
    rig = make_rig(min_devices=1, max_devices=2)
    rig.check_in(*ALL)
    rig.settle()
    first = cohort(rig)
    with rig.database.transaction() as connection:
        for table in ("assignments", "participation"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("UPDATE rounds SET phase = 'selecting'")
    again = type(rig)(rig.database, rig.artifacts, rig.now)
    again.check_in(*ALL)
    again.settle()

    assert cohort(again) == first


def test_over_assignment_hands_out_more_than_is_waited_for(make_rig):
    rig = make_rig(over_assign=1.5)
    work = rig.begin_round("a", "b", "c")

    assert sum(assignment.directions for assignment in work) == 9 + 14  # ⌈6 · 1.5⌉ and ⌈9 · 1.5⌉
    assert sum(plan.wanted for plan in rig.round.plan) == 6 + 9


def test_over_assignment_lets_a_round_commit_without_a_device_that_vanished(make_rig):
    rig = make_rig(over_assign=1.5)
    first, second, _vanished = rig.begin_round("a", "b", "c")
    rig.finish(first)
    rig.finish(second)
    rig.settle()

    assert rig.phases()[0] == Phase.COMMITTED


def test_more_devices_than_directions_leave_some_without_work(make_rig):
    rig = make_rig({"blocks.peft": None, "blocks.head": {"directions": 2}}, min_devices=5)
    rig.check_in(*ALL)
    rig.settle()

    assert len(cohort(rig)) == 2


def test_a_device_works_for_one_job_at_a_time(make_rig):
    rig = make_rig(min_devices=1)
    rig.check_in("a", "b")
    rig.settle()
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE assignments SET job_id = 'job1', round = 99")  # of some other round
        connection.exec_driver_sql("UPDATE rounds SET phase = 'selecting'")
    for device in ("a", "b"):
        rig.presence.seen(Present(device, rig.now, frozenset()))
    rig.settle()

    assert rig.round.phase == Phase.SELECTING
