"""Round 0: who is asked for feature sums, for how long, and what becomes of them."""

from itertools import permutations

import numpy as np
import pytest
from helpers.rig import JOB
from helpers.tiny_head import LABELS, WIDTH, HeadlessRig, sums_of
from sqlalchemy import select

from fwdllm.v1 import device_pb2
from fwdllm_common.ledger import RunHeader
from fwdllm_common.replay import theta_digest
from fwdllm_server.algorithm.class_means import ClassTotals, LinearHead, head_from_means
from fwdllm_server.rounds import feature_reporting
from fwdllm_server.store import assignments, feature_sums, job_devices, schema
from fwdllm_server.store.assignments import AssignmentState
from fwdllm_server.store.jobs import JobState

DEVICES = ("a", "b", "c", "d")


@pytest.fixture
def make_rig(tmp_path):
    made = []

    def make(**rounds):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(HeadlessRig.headless(folder, DEVICES, **{"min_devices": 2, **rounds}))
        return made[-1]

    yield make
    for rig in made:
        rig.database.close()


@pytest.fixture
def rig(make_rig):
    return make_rig()


def ask(rig, *devices):
    """The devices come, are asked and fetch it; returns the assignments' ids."""
    rig.here(*devices)
    rig.settle()
    work = [rig.fetch(device) for device in devices]
    assert all(work)
    return [assignment.assignment_id for assignment in work]


def initialise(rig, *devices):
    for device, assignment_id in zip(devices, ask(rig, *devices), strict=True):
        rig.send(device, assignment_id)
    rig.later(10)


def test_an_uninitialised_head_waits_for_devices_whose_owners_allow_it(rig):
    rig.here("a")
    rig.here("b", "c", "d", allowed=False)
    step = rig.settle()

    assert not step.moved
    assert (rig.round.number, rig.round.phase) == (0, "initialising")
    assert rig.round.reason == "waiting for devices whose owners allow feature sums: 1 of 2 are here"
    assert [rig.fetch(device) for device in DEVICES] == [None] * 4
    assert rig.record.state == JobState.PREPARING


def test_devices_are_asked_for_sums_and_nothing_else(rig):
    rig.here("a", "b")
    rig.settle()
    work = rig.fetch("a")

    assert work.feature_sums
    assert (work.round, work.version, len(work.directions), work.evaluate) == (0, 0, 0, False)
    assert not work.HasField("header")
    assert work.theta_digest == theta_digest(rig.job.state.theta)
    assert work.deadline_ms == 100_000
    assert rig.artifacts.get(work.theta_digest.hex()) == rig.job.state.theta.tobytes()


def test_who_comes_while_the_window_is_open_is_asked_too(rig):
    ask(rig, "a", "b")
    rig.now += 9
    ask(rig, "c")
    rig.now += 1
    rig.here("d")
    rig.settle()

    assert rig.fetch("d") is None


def test_no_more_than_max_devices_are_asked_and_then_nobody_is_waited_for(make_rig):
    rig = make_rig(max_devices=2)
    first, second = ask(rig, "a", "b")
    rig.here("c")
    rig.settle()
    assert rig.fetch("c") is None
    rig.send("a", first)
    rig.send("b", second)
    rig.settle()

    assert rig.round.number == 1


def test_the_window_stays_open_for_others_after_the_first_have_answered(rig):
    for device, assignment_id in zip("ab", ask(rig, "a", "b"), strict=True):
        rig.send(device, assignment_id)
    step = rig.later(4)

    assert rig.round.phase == "initialising"
    assert step.look_again_s == 6
    assert rig.later(6).moved is False
    assert rig.round.number == 1


def test_the_run_begins_at_the_frozen_weights_with_the_head_of_the_stored_sums(rig):
    headless = rig.job.state.theta.copy()
    initialise(rig, "a", "b")
    with rig.database.transaction() as connection:
        stored = list(feature_sums.of_job(connection, JOB))
    head = LinearHead.of(rig.job.manifest)
    totals = ClassTotals(head)
    for found in stored:
        totals.add(found.label, found.rows, found.features)
    theta = head_from_means(headless, head, totals)

    assert rig.record.state == JobState.RUNNING
    assert rig.record.head_init == "class-means"
    assert RunHeader.from_bytes(rig.record.header).initial_theta_digest == theta_digest(theta)
    assert rig.job.header == RunHeader.from_bytes(rig.record.header)
    np.testing.assert_array_equal(rig.job.state.theta, theta)
    again = rig.reborn()
    assert not again.job.head_uninitialised
    assert (again.job.state.version, again.job.state.digest) == (0, theta_digest(theta))


def test_the_head_knows_the_classes_of_its_sums(rig):
    initialise(rig, "a", "b")
    tensors = rig.job.manifest.layout.unpack(rig.job.state.theta)
    logits = np.eye(len(LABELS), WIDTH) @ tensors["classifier.weight"].T + tensors["classifier.bias"]

    assert logits.argmax(axis=1).tolist() == [0, 1, 2]


def test_the_first_round_follows_with_all_devices(rig):
    initialise(rig, "a", "b")
    assert rig.phases() == ["committed", "selecting"]
    rig.here("a", "b")
    rig.here("c", "d", allowed=False)
    rig.settle()
    rig.later(5)
    work = [rig.fetch(device) for device in DEVICES]

    assert all(assignment.HasField("header") and not assignment.feature_sums for assignment in work)
    assert {assignment.round for assignment in work} == {1}
    assert {assignment.header.initial_theta_digest for assignment in work} == {rig.job.state.digest}


def test_the_round_says_what_the_head_is_from(rig):
    initialise(rig, "a", "b")
    rows = sum(item.rows for device in "ab" for item in sums_of(device))

    with rig.database.transaction() as connection:
        (zeroth, _) = connection.execute(select(schema.rounds).order_by(schema.rounds.c.number))
    assert zeroth.reason == f"head from the means of 3 of 3 classes: {rows} rows on 2 devices"


def test_whatever_the_order_of_arrival_the_run_is_the_same(make_rig):
    digests = set()
    for order in permutations("abc"):
        rig = make_rig(min_devices=3)
        work = dict(zip("abc", ask(rig, "a", "b", "c"), strict=True))
        for device in order:
            rig.send(device, work[device])
        rig.later(10)
        digests.add(rig.job.header.initial_theta_digest)

    assert len(digests) == 1


def test_a_coordinator_that_dies_after_every_step_begins_the_same_run(make_rig):
    uninterrupted = make_rig()
    initialise(uninterrupted, "a", "b")
    rig = make_rig().reborn()
    rig.here("a", "b")
    while rig.machine.advance(rig.now).moved:
        rig = rig.reborn()
        rig.here("a", "b")
    for device in "ab":
        rig = rig.reborn()
        work = rig.fetch(device)
        for item in sums_of(device):
            rig = rig.reborn()
            assert rig.send(device, work.assignment_id, [item], last=False).accepted == 1
            rig = rig.reborn()
            assert rig.send(device, work.assignment_id, [item], last=False).repeated == 1
        rig = rig.reborn()
        rig.send(device, work.assignment_id, [])
    rig.now += 10
    while rig.machine.advance(rig.now).moved:
        rig = rig.reborn()

    assert rig.job.header == uninterrupted.job.header
    assert rig.job.state.digest == uninterrupted.job.state.digest
    assert rig.round.number == 1


def test_a_message_that_comes_again_changes_nothing(rig):
    first, _ = ask(rig, "a", "b")
    other = [device_pb2.ClassSum(label=item.label, rows=8, features=[9] * WIDTH) for item in sums_of("a")]
    assert rig.send("a", first, last=False).accepted == 3
    answer = rig.send("a", first, other)

    assert (answer.accepted, answer.repeated, answer.unusable) == (0, 3, 0)
    with rig.database.transaction() as connection:
        rows = feature_sums.rows_of_device(connection, JOB, "a")
    assert rows == {item.label: item.rows for item in sums_of("a")}


def test_sums_for_a_head_that_is_set_are_late(rig):
    (first, second, third) = ask(rig, "a", "b", "c")
    rig.send("a", first)
    rig.send("b", second)
    rig.later(100)
    header = rig.job.header
    answer = rig.send("c", third)

    assert (answer.late, answer.accepted) == (3, 0)
    assert rig.round.number == 1
    assert rig.job.header == header


@pytest.mark.parametrize(
    "bad",
    [
        {"label": 3},
        {"rows": 7},
        {"rows": 51},
        {"features": [0.0] * (WIDTH - 1)},
        {"features": [0.0] * (WIDTH + 1)},
        {"features": [float("nan")] * WIDTH},
        {"features": [float("inf")] * WIDTH},
        {"features": [1e30] * WIDTH},
    ],
    ids=str,
)
def test_what_cannot_be_a_sum_is_not_used_and_the_device_not_asked_again(rig, bad):
    first, _ = ask(rig, "a", "b")
    item = device_pb2.ClassSum(**{"label": 0, "rows": 8, "features": [1.0] * WIDTH, **bad})
    answer = rig.send("a", first, [item])

    assert (answer.accepted, answer.unusable) == (0, 1)
    rig.here("a")
    rig.settle()
    assert rig.fetch("a") is None
    with rig.database.transaction() as connection:
        assert feature_sums.sources(connection, JOB)[0] == frozenset()


def test_a_device_cannot_have_added_up_more_rows_than_it_has(rig):
    """It said 50: of 30 and 30 rows one is made up."""
    first, _ = ask(rig, "a", "b")
    items = [device_pb2.ClassSum(label=label, rows=30, features=[1.0] * WIDTH) for label in (0, 1)]

    answer = rig.send("a", first, items)
    assert (answer.accepted, answer.unusable) == (1, 1)


def test_a_device_with_nothing_to_send_is_not_waited_for_and_does_not_count(rig):
    first, second = ask(rig, "a", "b")
    rig.send("a", first)
    rig.send("b", second, [])
    rig.later(10)

    assert rig.round.phase == "initialising"
    assert rig.round.reason == "waiting for devices whose owners allow feature sums: 0 of 1 are here"
    rig.here("b", "c")
    rig.settle()
    assert rig.fetch("b") is None
    third = rig.fetch("c")
    rig.send("c", third.assignment_id)
    rig.later(10)
    assert rig.round.number == 1


def test_one_class_makes_no_head(make_rig):
    rig = make_rig(min_devices=1)
    (first,) = ask(rig, "a")
    rig.send("a", first, sums_of("a")[:1])
    rig.later(10)
    assert rig.round.phase == "initialising"

    (second,) = ask(rig, "b")
    rig.send("b", second, sums_of("b")[1:2])
    rig.later(10)
    assert rig.round.number == 1


def test_a_window_that_brings_too_little_is_followed_by_another_that_keeps_what_is_in(rig):
    first, _ = ask(rig, "a", "b")
    rig.send("a", first)
    rig.later(100)
    assert [work.state for work in rig.work_of_round()] == [AssignmentState.DONE, AssignmentState.EXPIRED]
    assert rig.round.phase == "initialising"

    (again,) = ask(rig, "b")
    rig.send("b", again)
    rig.later(10)
    assert rig.round.number == 1
    assert rig.job.header.initial_theta_digest == rig.job.state.digest


def test_an_offer_that_nobody_fetches_ends_with_the_window(rig):
    rig.here("a", "b")
    rig.settle()
    step = rig.later(10)

    assert [work.state for work in rig.work_of_round()] == [AssignmentState.EXPIRED] * 2
    assert not step.moved


def test_a_device_that_has_fetched_has_until_the_deadline(rig):
    ask(rig, "a", "b")
    step = rig.later(99)

    assert step.look_again_s == 1
    assert all(work.open for work in rig.work_of_round())


def test_a_scalar_has_no_place_in_it(rig):
    first, _ = ask(rig, "a", "b")

    answer = rig.report(first, [0.5])
    assert (answer.late, answer.stop) == (1, True)


def test_devices_that_initialise_a_head_are_busy(rig):
    ask(rig, "a", "b")
    with rig.database.transaction() as connection:
        assert assignments.busy_devices(connection) == {"a", "b"}


def test_the_usage_is_counted_once(rig):
    first, _ = ask(rig, "a", "b")
    usage = device_pb2.ResourceUsage(seconds=2, example_passes=50)
    request = device_pb2.FeatureSumsRequest(assignment_id=first, sums=sums_of("a"), last=True, usage=usage)
    for _ in range(2):
        with rig.database.transaction() as connection:
            feature_reporting.record(connection, assignments.get(connection, first), request, rig.job.manifest)

    with rig.database.transaction() as connection:
        assert job_devices.total(connection, JOB)[:2] == (50, 2)


def test_an_uninitialised_head_stays_one_after_a_restart(rig):
    ask(rig, "a", "b")
    again = rig.reborn()

    assert (rig.record.header, rig.record.head_init) == (None, "")
    assert again.job.head_uninitialised
    assert again.job.state.digest == rig.job.state.digest
