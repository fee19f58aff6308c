"""What a device is taken to be able to do, and what it is given for it."""

import pytest
from helpers.rig import JOB
from helpers.timed_device import directions_by_device
from helpers.tiny_job import LAYOUT, tiny_manifest
from structlog.testing import capture_logs

from fwdllm.v1.device_pb2 import ResourceUsage
from fwdllm_common.manifest import Manifest, Stage
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.rounds.load import MOST_OVER_OBSERVED, Load, direction_cost
from fwdllm_server.store import job_devices
from fwdllm_server.store.job_devices import Spent

HEAD_ONLY = {"blocks.peft": None, "blocks.head": {"directions": 60}}
ABC = ("a", "b", "c")


def measure(rig, **passes_per_s):
    """Devices have computed for ten seconds each."""
    with rig.database.transaction() as connection:
        for device, speed in passes_per_s.items():
            job_devices.add(connection, [Spent(JOB, device, 0, ResourceUsage(seconds=10, example_passes=10 * speed))])


def given_to(rig, *devices):
    rig.begin_round(*devices)
    return directions_by_device(rig, rig.round.number)


# what a direction costs


def plan(block, central=False):
    return BlockPlan(block, (), 4, 1e-3, 16, 0.1, central)


def manifest(per_token, multiplications):
    tiny = tiny_manifest()
    file = tiny.tokenizer
    stages = tuple(
        Stage(block, file, None, ("input_ids",), on_tokens, 4, each)
        for block, on_tokens, each in zip((None, *LAYOUT.blocks), per_token, multiplications, strict=True)
    )
    return Manifest(tiny.labels, 100, 0, file, LAYOUT, stages)


def test_a_direction_costs_the_stages_from_its_block_on():
    model = manifest((True, True, True), (80, 15, 5))

    assert direction_cost(model, plan("peft")) == pytest.approx(16 * 0.2)
    assert direction_cost(model, plan("head")) == pytest.approx(16 * 0.05)


def test_a_stage_that_reads_pooled_features_is_paid_once_for_a_text():
    """Of the longest length of 100 tokens half is what a text has."""
    model = manifest((True, False, False), (80, 20, 50))

    assert direction_cost(model, plan("head")) == pytest.approx(16 * 50 / (50 * 80 + 50 * 20 + 50))


def test_a_central_difference_costs_twice():
    model = manifest((True, True, True), (80, 15, 5))

    assert direction_cost(model, plan("peft", central=True)) == 2 * direction_cost(model, plan("peft"))


# who gets how much


def test_without_any_measurement_all_get_the_same(make_rig):
    assert given_to(make_rig(HEAD_ONLY), *ABC) == {"a": 20, "b": 20, "c": 20}


def test_directions_follow_the_measured_speeds(make_rig):
    rig = make_rig(HEAD_ONLY)
    measure(rig, a=30, b=20, c=10)

    assert given_to(rig, *ABC) == {"a": 30, "b": 20, "c": 10}


def test_parts_are_contiguous_in_the_order_of_the_seeds(make_rig):
    rig = make_rig(HEAD_ONLY)
    measure(rig, a=30, b=20, c=10)
    rig.begin_round(*ABC)
    seeds = [seed for work in rig.work_of_round() for seed in work.seeds]

    assert seeds == rig.round.plan[0].seeds
    assert all(len(task.seeds) == 1 for work in rig.work_of_round() for task in work.tasks)


def test_a_device_nobody_has_measured_counts_as_the_median(make_rig):
    rig = make_rig(HEAD_ONLY, min_devices=4)
    measure(rig, a=30, b=20, c=10)

    assert given_to(rig, "a", "b", "c", "d") == pytest.approx({"a": 22.5, "b": 15, "c": 7.5, "d": 15}, abs=0.6)


def test_a_tale_of_great_speed_is_worth_half_of_the_round_at_most(make_rig):
    rig = make_rig({**HEAD_ONLY, "blocks.head": {"directions": 90}}, deadline_s=1e6)
    measure(rig, a=10, b=10, c=1e8)

    assert given_to(rig, *ABC) == pytest.approx({"a": 22, "b": 22, "c": 45}, abs=1)


def test_a_device_alone_gets_all(make_rig):
    rig = make_rig({**HEAD_ONLY, "blocks.head": {"directions": 90}}, min_devices=1, deadline_s=1e6)

    assert given_to(rig, "a") == {"a": 90}


def test_a_speed_that_the_coordinator_has_not_seen_is_not_believed(make_rig):
    """It tells of 160 passes a second, and its three directions of 16/3 passes each came after ten seconds."""
    rig = make_rig(HEAD_ONLY, count=9)
    work = {each.device_id: each for each in rig.begin_round(*ABC)}
    rig.now += 10
    for each in work.values():
        told = 1600 if each.device_id == "c" else 16
        usage = ResourceUsage(seconds=10, example_passes=told)
        rig.report(each.id, [0.5] * 3, usage=usage)
    current = rig.round
    with rig.database.transaction() as connection:
        context = RoundContext(connection, rig.job, current, rig.presence, rig.artifacts, rig.now)
        assert Load.of(context, ABC).speeds == pytest.approx({"a": 1.6, "b": 1.6, "c": MOST_OVER_OBSERVED * 1.6})


def test_a_device_that_fetches_and_says_nothing_is_taken_for_the_slowest(make_rig):
    rig = make_rig(HEAD_ONLY, count=9, min_devices=2)
    measure(rig, a=10, b=10, c=1000)
    work = {each.device_id: each for each in rig.begin_round(*ABC)}
    rig.later(29)
    for device in "ab":
        rig.finish(work[device])
    while rig.job.state.version == 0:
        for each in rig.check_in("a", "b"):
            rig.finish(each)
        rig.settle()

    given = given_to(rig, *ABC)
    assert given.get("c", 0) <= 1


def test_a_device_that_would_get_nothing_gets_no_assignment(make_rig):
    rig = make_rig(HEAD_ONLY)
    measure(rig, a=30, b=30, c=1e-6)

    assert given_to(rig, *ABC) == {"a": 30, "b": 30}


def test_nobody_gets_more_than_it_can_do_in_half_of_the_time(make_rig):
    """A direction is 16/3 passes; with 4 seconds to the deadline, 10 passes a second are three of them."""
    rig = make_rig(HEAD_ONLY, deadline_s=4)
    measure(rig, a=10, b=10, c=100)

    assert given_to(rig, *ABC) == {"a": 3, "b": 3, "c": 30}


def test_what_is_too_much_for_all_stays_to_be_offered_again(make_rig):
    rig = make_rig(HEAD_ONLY)
    measure(rig, a=1, b=1, c=1)
    work = rig.begin_round(*ABC)
    assert [each.directions for each in work] == [9, 9, 9]
    rig.finish(work[0])
    rig.check_in("a")
    rig.settle()
    (more,) = rig.check_in("a")

    assert more.seeds == rig.round.plan[0].seeds[27 : 27 + more.directions]
    assert more.directions == 9


def test_a_single_direction_is_not_too_much_for_anyone(make_rig):
    """Speeds change: a round whose devices were all slow last time is tried all the same."""
    rig = make_rig(HEAD_ONLY)
    measure(rig, a=1e-9, b=1e-9, c=1e-9)

    assert given_to(rig, *ABC) == {"a": 1, "b": 1, "c": 1}


def test_a_coordinator_that_died_while_dividing_divides_the_same_way(make_rig):
    rig = make_rig(count=9, min_devices=5)
    measure(rig, a=31, b=17, c=5, d=0.3, e=71)
    rig.check_in("a", "b", "c", "d", "e")
    rig.settle()
    first = [(work.device_id, work.seeds) for work in rig.work_of_round()]
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM assignments")
        connection.exec_driver_sql("UPDATE rounds SET phase = 'selecting', plan = '[]'")
    again = type(rig)(rig.database, rig.artifacts, rig.now)
    again.check_in("a", "b", "c", "d", "e")
    again.settle()

    assert [(work.device_id, work.seeds) for work in again.work_of_round()] == first


def test_a_slow_device_has_a_direction_now_and_then(make_rig):
    """Its data is heard, and its speed is measured again."""
    rig = make_rig({**HEAD_ONLY, "blocks.head": {"directions": 10}}, count=60)
    measure(rig, a=10, b=9, c=1)
    directions = 0
    for number in range(1, 61):
        for work in rig.begin_round(*ABC):
            rig.finish(work)
        rig.settle()
        directions += directions_by_device(rig, number).get("c", 0)

    assert 15 < directions < 45


def test_a_step_more_follows_the_speeds_too(make_rig):
    rig = make_rig(
        {"blocks.peft": None, "blocks.head": {"directions": 60, "max_directions": 120, "variance_threshold": 1e-9}}
    )
    measure(rig, a=30, b=20, c=10)
    for work in rig.begin_round(*ABC):
        rig.finish(work)
    rig.settle()
    for device in ABC:  # one after the other, as they do
        rig.check_in(device)
        rig.settle()

    assert [work.directions for work in rig.check_in(*ABC)] == [30, 20, 10]


def test_a_step_more_goes_to_new_devices_first(make_rig):
    rig = make_rig(
        {"blocks.peft": None, "blocks.head": {"directions": 60, "max_directions": 120, "variance_threshold": 1e-9}}
    )
    for work in rig.begin_round(*ABC):
        rig.finish(work)
    rig.check_in("a", "b", "c", "d", "e")
    rig.settle()

    assert [(work.device_id, work.directions) for work in rig.check_in("a", "b", "c", "d", "e")] == [
        ("d", 20),
        ("e", 20),
    ]


def test_what_was_planned_and_judged_is_logged(make_rig):
    rig = make_rig({**HEAD_ONLY, "blocks.head": {"directions": 60, "variance_threshold": 1e9, "pacing": "absolute"}})
    measure(rig, a=30, b=20, c=10)
    with capture_logs() as lines:
        for work in rig.begin_round(*ABC):
            rig.finish(work)
        rig.settle()
    planned, judged = (line for line in lines if line["event"] in ("round planned", "round judged"))

    assert (planned["devices"], planned["least_directions"], planned["most_directions"]) == (3, 10, 30)
    assert (judged["devices"], judged["least_directions"], judged["most_directions"]) == (3, 10, 30)
    assert judged["variance"] <= judged["threshold"] == 1e9
    assert "within 1e+09" in judged["reason"]
