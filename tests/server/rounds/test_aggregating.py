"""Rounds with secure aggregation: the cohort's sum, or none."""

import sqlite3
from collections.abc import Mapping
from math import nan
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from helpers.cohort_device import CohortDevice, Kind, run_cohort
from helpers.rig import JOB, Rig
from helpers.tiny_job import LABELS, job_toml
from sqlalchemy import update

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import BadInputError
from fwdllm_common.packing import packed
from fwdllm_common.protocol import GENERATOR_2, SECURE_AGGREGATION
from fwdllm_common.secure_aggregation import messages
from fwdllm_server.algorithm.accountant import noise_multiplier
from fwdllm_server.rounds import known_answers
from fwdllm_server.rounds.ended import end_aggregation
from fwdllm_server.rounds.failover import resume_after_failover
from fwdllm_server.rounds.presence import Present
from fwdllm_server.store import aggregations, releases, schema
from fwdllm_server.store.aggregations import Step
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.rounds import Phase

WEIGHTS = [1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7]
"""Of devices with 10, 20, … 120 rows: 4 for the median's 70."""
NAMES = [f"device-{letter}" for letter in "abcdefghijkl"]
SECURED = {
    "privacy": {"secure_aggregation": True},
    "rounds": {"count": 1, "min_devices": 8, "max_devices": 12},
    "blocks.peft": {"directions": "auto", "batch_size": "auto"},
    "blocks.head": {"directions": "auto", "batch_size": "auto"},
}


@pytest.fixture
def rig(tmp_path: Path):
    rig = Rig.create(tmp_path, job_toml(SECURED), NAMES)
    with rig.database.transaction() as connection:  # 10 to 120 rows
        for number, name in enumerate(NAMES, start=1):
            own = schema.devices.c.id == name
            connection.execute(update(schema.devices).where(own).values(training_examples=10 * number))
    yield rig
    rig.database.close()


def cohort(silent: Mapping[str, Kind] = MappingProxyType({})) -> list[CohortDevice]:
    return [CohortDevice(name, silent.get(name[-1])) for name in NAMES]


def is_closed(rig: Rig) -> bool:
    return rig.round.phase in (Phase.COMMITTED, Phase.ABANDONED) or rig.round.number > 1


def coefficients(rig: Rig) -> list[int]:
    (entry,) = rig.ledger()
    return [c for each in entry.updates for c in each.coefficients.tolist()]


def mean_of(rig: Rig, devices: list[CohortDevice]) -> list[int]:
    """The weighted mean of the same scalars, in the way of the ledger: each block packed by itself."""
    weights = np.array([WEIGHTS[NAMES.index(device.name)] for device in devices])
    values = np.array([values for device in devices for values in device.values.values()])
    together = int(weights.sum())
    mean = (2 * (weights @ values) + together) // (2 * together)
    (entry,) = rig.ledger()
    sizes = np.cumsum([len(each.seeds) for each in entry.updates])[:-1]
    parts = zip(entry.updates, np.split(mean, sizes), strict=True)
    return [c for each, part in parts for c in (packed(part).integers() if each.packed else part).tolist()]


def test_the_ledger_has_the_weighted_mean_of_the_cohorts_scalars(rig):
    devices = cohort()
    run_cohort(rig, devices, is_closed)

    assert rig.phases() == ["committed"]
    assert [weight for device in devices for weight in device.weights.values()] == WEIGHTS
    assert coefficients(rig) == mean_of(rig, devices)
    assert rig.round.reason == "sum over 12 of 12 devices"


def test_all_devices_measure_the_same_directions_on_their_rows(rig):
    rig.begin_round(*NAMES)
    tasks = {tuple(task.SerializeToString() for task in each.tasks) for each in rig.work_of_round()}

    assert len(tasks) == 1
    assert all(task.same_rows and not task.packed for task in rig.work_of_round()[0].tasks)


@pytest.mark.parametrize(
    ("silent", "in_sum"),
    [
        ({"l": "keys"}, 11),
        ({"l": "shares"}, 11),
        ({"l": "masked"}, 11),  # its masking key is restored
        ({"l": "unmasking"}, 12),  # it is in the sum already
        ({"j": "masked", "k": "unmasking", "l": "masked"}, 10),
        ({"i": "keys", "j": "shares", "k": "masked", "l": "unmasking"}, 9),
    ],
)
def test_the_sum_is_exact_whoever_vanishes(rig, silent, in_sum):
    devices = cohort(silent)
    run_cohort(rig, devices, is_closed)

    assert rig.phases() == ["committed"]
    assert rig.round.reason == f"sum over {in_sum} of 12 devices"
    assert coefficients(rig) == mean_of(rig, [d for d in devices if d.silent_from in (None, "unmasking")])


@pytest.mark.parametrize(("kind", "unanswered"), [("shares", "masked"), ("masked", "unmasking")])
def test_where_devices_would_refuse_to_go_on_the_round_is_abandoned_before(rig, kind, unanswered):
    devices = cohort(dict.fromkeys("ijkl", kind))  # 7 of 11 peers are left, 8 are needed
    run_cohort(rig, devices, is_closed)

    assert rig.phases()[0] == "abandoned"
    assert unanswered not in {each.WhichOneof("message") for d in devices for sent in d.sent.values() for each in sent}


@pytest.mark.parametrize("kind", ["keys", "shares", "masked"])
def test_below_the_minimum_the_round_is_abandoned_and_nobody_unmasks(rig, kind):
    devices = cohort(dict.fromkeys("hijkl", kind))
    run_cohort(rig, devices, is_closed)

    assert rig.phases()[0] == "abandoned"
    assert rig.ledger() == []
    kinds = {request.WhichOneof("message") for d in devices for each in d.sent.values() for request in each}
    assert "unmasking" not in kinds


def test_with_too_few_to_unmask_the_round_is_abandoned(rig):
    devices = cohort(dict.fromkeys("hijkl", "unmasking"))
    run_cohort(rig, devices, is_closed)

    assert rig.phases()[0] == "abandoned"
    assert rig.ledger() == []


def test_the_next_round_is_another_session_of_those_that_are_left(rig):
    devices = cohort(dict.fromkeys("hijkl", "unmasking"))
    run_cohort(rig, devices, is_closed)
    for device in devices:
        device.silent_from = None
    run_cohort(rig, devices, lambda rig: rig.phases()[-1] == "committed")

    assert len(rig.ledger()) == 1
    sealing = [each[0].keys.sealing for device in devices for each in device.sent.values()]
    assert len(set(sealing)) == len(sealing)


def test_no_devices_own_scalars_are_on_the_wire_or_in_the_store(rig, tmp_path):
    devices = cohort({"l": "masked"})
    wire, dumps = set(), []

    def watched(rig: Rig) -> bool:
        dumps.append(_everything_in(tmp_path / "fwdllm.db"))
        return is_closed(rig)

    run_cohort(rig, devices, watched)
    for device in devices:
        for requests in device.sent.values():
            wire.update(request.SerializeToString() for request in requests)
    assert coefficients(rig) == mean_of(rig, devices[:-1])
    for device in devices:
        for work, values in device.values.items():
            for factor in {1, device.weights[work]}:
                for width in ("<i8", "<i4"):
                    for place in range(0, len(values), 2):  # two numbers are not there by chance
                        secret = (values[place : place + 2] * factor).astype(width).tobytes()
                        assert not any(secret in message for message in wire)
                        assert not any(secret in dump for dump in dumps)


def _everything_in(path: Path) -> bytes:
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]
    return b"|".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)


def test_who_is_late_for_the_sum_is_never_asked_for_plain_scalars(rig):
    devices = cohort({"l": "masked"})
    while rig.now < 1400 and (not rig.phases() or rig.round.phase != Phase.COMMITTING):
        for device in devices:
            device.work(rig)
        rig.machine.advance(rig.now)
        rig.now += 1

    assert rig.round.phase == Phase.COMMITTING
    assert rig.fetched(NAMES[-1]).HasField("secure_aggregation")


def test_scalars_that_are_not_masked_are_refused(rig):
    (work, *_) = rig.begin_round(*NAMES)
    answer = rig.report(work.id, [0.5, 0.25])

    assert (answer.accepted, answer.unusable, answer.stop) == (0, 2, True)


def test_a_message_counts_once_and_another_one_in_its_place_does_not(rig):
    rig.begin_round(*NAMES)
    device = CohortDevice(NAMES[0])
    device.work(rig)
    ((request,),) = device.sent.values()
    assert rig.aggregate(request).wait_ms > 0
    other = device_pb2.AggregateRequest()
    other.CopyFrom(request)
    other.keys.sealing = bytes(32)
    assert rig.aggregate(other).over
    assert rig.aggregate(request).wait_ms > 0


@pytest.mark.parametrize(
    "message",
    [
        {"keys": device_pb2.MemberKeys(sealing=bytes(31), masking=bytes(32), commitment=bytes(32))},
        {},
    ],
)
def test_a_message_of_a_wrong_size_is_refused(rig, message):
    (work, *_) = rig.begin_round(*NAMES)
    with pytest.raises(BadInputError):
        rig.aggregate(device_pb2.AggregateRequest(assignment_id=work.id, **message))


def test_a_message_out_of_turn_ends_the_devices_part(rig):
    (work, *_) = rig.begin_round(*NAMES)

    assert rig.aggregate(device_pb2.AggregateRequest(assignment_id=work.id, masked=bytes(8))).over


def test_a_damaged_key_leaves_its_device_out(rig):
    devices = cohort({"l": "keys"})
    *_, work = rig.begin_round(*NAMES)
    low_order = device_pb2.MemberKeys(sealing=bytes(32), masking=bytes(range(32)), commitment=bytes(32))
    rig.aggregate(device_pb2.AggregateRequest(assignment_id=work.id, keys=low_order))
    run_cohort(rig, devices, is_closed)

    assert rig.round.reason == "sum over 11 of 12 devices"
    assert coefficients(rig) == mean_of(rig, devices[:-1])


def test_a_known_answer_test_does_not_shorten_an_assignment(rig):
    bounds = rig.job.spec.rounds
    work, *_ = rig.begin_round(*NAMES)
    rig.now += 1
    expires_at = rig.job.expiry(rig.round.phase_since, rig.now)
    with rig.database.transaction() as connection:
        known_answers.record(connection, work, 50.0, expires_at, rig.now)
    rig.later(bounds.assignment_s + 2)

    assert rig.work_of_round()[0].open
    assert bounds.deadline_s > bounds.assignment_s + 3


def test_after_downtime_devices_have_the_time_of_the_round_again(rig):
    bounds = rig.job.spec.rounds
    rig.begin_round(*NAMES)
    fail_over(rig, bounds.deadline_s - 1)
    rig.later(bounds.assignment_s + 1)

    assert all(work.open for work in rig.work_of_round())


def test_after_downtime_the_step_waits_again(rig):
    devices = cohort()
    run_cohort(rig, devices, lambda rig: step_of(rig) is Step.MASKED)
    fail_over(rig, rig.job.spec.rounds.accept_s + 5)
    rig.settle()
    assert step_of(rig) is Step.MASKED
    run_cohort(rig, devices, is_closed)

    assert rig.round.reason == "sum over 12 of 12 devices"


def fail_over(rig: Rig, downtime_s: float) -> None:
    rig.now += downtime_s
    with rig.database.transaction() as connection:
        resume_after_failover(connection, rig.job, rig.now)


def step_of(rig: Rig) -> Step | None:
    number = rig.round.number
    with rig.database.transaction() as connection:
        record = aggregations.get(connection, JOB, number)
    return None if record is None else record.step


def test_an_earlier_selections_assignments_count_no_more(tmp_path):
    spec = {**SECURED, "rounds": {"count": 1, "min_devices": 12, "max_devices": 12}}
    rig = Rig.create(tmp_path, job_toml(spec), NAMES)
    accept_s = rig.job.spec.rounds.accept_s
    rig.check_in(*NAMES)
    rig.settle()
    rig.check_in(*NAMES[1:])  # one is missing
    rig.settle()
    rig.later(accept_s + 1)
    assert rig.round.phase == Phase.SELECTING
    while rig.round.phase == Phase.SELECTING:
        rig.now += 1
        rig.check_in(*NAMES)
        rig.settle()
    rig.check_in(NAMES[0])
    rig.settle()
    assert rig.round.phase == Phase.ASSIGNED  # one of 12 has fetched the new assignments
    rig.later(accept_s + 1)

    assert rig.round.phase == Phase.SELECTING
    rig.database.close()


class Liar(CohortDevice):
    """Sends other words than those of its scalars."""

    def _next(self, work: str, answer: device_pb2.AggregateResponse) -> device_pb2.AggregateRequest:
        request = super()._next(work, answer)
        if request.WhichOneof("message") == "masked":
            words = messages.words_of(request.masked)
            request.masked = messages.words_message(words + np.uint64(1 << 55))
        return request


def test_a_sum_that_scalars_cannot_have_is_not_committed(rig):
    devices = cohort()
    devices[3] = Liar(NAMES[3])
    run_cohort(rig, devices, is_closed)

    assert rig.phases()[0] == "abandoned"
    assert rig.ledger() == []


def test_most_devices_without_usable_scalars_are_divergence(rig):
    work = rig.begin_round(*NAMES)
    for each in work[:6]:
        rig.report(each.id, [nan])
    rig.settle()
    assert rig.record.state == JobState.RUNNING
    rig.report(work[6].id, [nan])
    rig.settle()

    assert rig.record.state == JobState.FAILED
    assert "training has diverged: the scalars of 7 of 12 devices" in rig.record.message


def test_a_job_that_ends_in_mid_round_leaves_no_messages_and_is_resumed_with_others(rig):
    devices = cohort()
    run_cohort(rig, devices, lambda rig: step_of(rig) is Step.UNMASKING)
    with rig.database.transaction() as connection:
        end_aggregation(connection, JOB)
    assert step_of(rig) is None
    assert rig.check_in(NAMES[0]) == []  # nobody fetches what has no session any more
    run_cohort(rig, devices, lambda rig: rig.phases()[-1] == "committed")

    assert rig.phases() == ["abandoned", "committed"]


def test_a_device_without_secure_aggregation_is_not_selected(rig):
    device = Present("old", 0.0, frozenset(("no", "yes")), frozenset(("generator-2",)))

    why = device.why_not("tiny", frozenset(("no", "yes")), needs=rig.job.needs)
    assert "'secure-aggregation'" in why


PRIVATE = SECURED | {"privacy": {"secure_aggregation": True, "epsilon": 8.0, "delta": 1e-5, "clip": 1.0}}


@pytest.fixture
def private_rig(tmp_path: Path):
    rig = Rig.create(tmp_path, job_toml(PRIVATE), NAMES)
    yield rig
    rig.database.close()


@pytest.mark.parametrize("silent", [{}, {"k": "masked", "l": "unmasking"}])
def test_with_differential_privacy_devices_clip_and_add_the_noise(private_rig, silent):
    rig, devices = private_rig, cohort(silent)
    run_cohort(rig, devices, is_closed)

    in_sum = [device for device in devices if device.silent_from in (None, "unmasking")]
    total = sum(values for device in in_sum for values in device.values.values())
    mean = (2 * total + len(in_sum)) // (2 * len(in_sum))
    (entry,) = rig.ledger()
    sizes = np.cumsum([len(each.seeds) for each in entry.updates])[:-1]
    assert coefficients(rig) == [c for part in np.split(mean, sizes) for c in packed(part).integers()]
    assert {weight for device in devices for weight in device.weights.values()} == {1}
    with rig.database.transaction() as connection:
        assert releases.most(connection, JOB) == 1
        assert len(releases.spent(connection, JOB, 1)) == len(in_sum)


def test_the_fewest_devices_of_a_sum_have_all_of_its_noise_together(private_rig):
    private_rig.begin_round(*NAMES)
    parts = [private_rig.fetched(name).secure_aggregation for name in NAMES]
    noise = noise_multiplier(private_rig.job.spec.privacy.budget)

    assert {(part.clip, part.noise) for part in parts} == {(1.0, noise**2 / 8)}


def test_devices_that_cannot_add_noise_are_not_selected(private_rig):
    for name in NAMES:
        able = frozenset((GENERATOR_2, SECURE_AGGREGATION))
        private_rig.presence.seen(Present(name, private_rig.now, frozenset(LABELS), able))
    private_rig.settle()

    assert private_rig.round.reason.startswith("waiting for devices: 0 of 8")


def test_a_round_that_gets_no_sum_after_its_devices_help_to_unmask_it_counts(private_rig):
    rig, devices = private_rig, cohort(dict.fromkeys("efghijkl", "unmasking"))
    run_cohort(rig, devices, is_closed)

    assert rig.phases()[0] == "abandoned"
    with rig.database.transaction() as connection:
        assert len(releases.spent(connection, JOB, 1)) == 12
