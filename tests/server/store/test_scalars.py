from helpers.rig import JOB
from helpers.stored import record, seeds_of_round
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwdllm_common.estimator import Scalar
from fwdllm_server.store import scalars
from fwdllm_server.store.scalars import NewScalar

MANY = 2500
"""As many as of a large batch of messages."""
seeds = st.sets(st.one_of(st.integers(0, 1000), st.integers(0, (1 << 63) - 1)), max_size=30)
"""Near and far from each other."""


def test_a_scalar_is_stored_once_however_often_it_is_sent(connection):
    assert record(connection, JOB, 1, "w1", "ann", {5: 10, 6: 20}) == 2
    assert record(connection, JOB, 1, "w1", "ann", {5: 10, 6: 20, 7: 30}) == 1
    assert scalars.count(connection, JOB, 1) == 3


def test_the_first_of_two_devices_with_the_same_seed_counts(connection):
    record(connection, JOB, 1, "w1", "ann", {5: 10})

    assert record(connection, JOB, 1, "w2", "bob", {5: 99}) == 0
    assert scalars.of_round(connection, JOB, 1) == [Scalar(5, 10, "ann", 50)]


def test_the_same_seed_of_another_round_or_job_is_another_scalar(connection):
    record(connection, JOB, 1, "w1", "ann", {5: 10})

    assert record(connection, JOB, 2, "w2", "ann", {5: 10}) == 1
    assert record(connection, "job2", 1, "w3", "ann", {5: 10}) == 1


def test_many_at_once_are_all_counted(connection):
    assert record(connection, JOB, 1, "w", "ann", {seed: seed for seed in range(MANY)}) == MANY
    assert record(connection, JOB, 1, "w", "ann", {seed: seed for seed in range(MANY + 3)}) == 3


def test_of_the_same_scalar_twice_in_one_message_the_first_counts(connection):
    first, second = (NewScalar(JOB, 1, 5, 0, "w", "ann", value) for value in (10, 99))

    assert scalars.record(connection, [first, second]) == {(JOB, 5, 0)}
    assert scalars.of_round(connection, JOB, 1) == [Scalar(5, 10, "ann", 50)]


def test_each_seed_has_the_devices_that_measured_it(connection):
    scalars.record(
        connection,
        [
            NewScalar(JOB, 1, 5, 0, "w1", "ann", 1),
            NewScalar(JOB, 1, 5, 1, "w2", "bob", 2),
            NewScalar(JOB, 1, 6, 0, "w2", "bob", 3),
            NewScalar(JOB, 2, 7, 0, "w3", "ann", 4),
            NewScalar("job2", 1, 8, 0, "w4", "ann", 5),
        ],
    )

    found = scalars.measured_by(connection, JOB, 1, [5, 6, 7, 8])
    assert {seed: sorted(devices) for seed, devices in found.items()} == {5: ["ann", "bob"], 6: ["bob"]}
    assert scalars.measured_by(connection, JOB, 1, []) == {}


@given(stored=seeds, wanted=seeds)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_seeds_that_are_asked_for_are_found_however_they_lie(connection, stored, wanted):
    with connection.begin_nested() as savepoint:
        record(connection, JOB, 1, "w", "ann", dict.fromkeys(stored, 7))
        assert scalars.measured_by(connection, JOB, 1, wanted) == {seed: ["ann"] for seed in stored & wanted}
        savepoint.rollback()


def test_nothing_at_all_is_nothing(connection):
    assert record(connection, JOB, 1, "w", "ann", {}) == 0


def test_they_come_back_by_ascending_seed_with_the_largest_values_whole(connection):
    values = {3 << 32: 1 << 40, 1 << 32: -(1 << 40), 2 << 32: 0}
    record(connection, JOB, 1, "w", "ann", values)

    assert [(found.seed, found.value) for found in scalars.of_round(connection, JOB, 1)] == sorted(values.items())


def test_forgetting_a_round_leaves_the_others(connection):
    record(connection, JOB, 1, "w", "ann", {1: 1})
    record(connection, JOB, 2, "w", "ann", {2: 2})
    scalars.forget(connection, JOB, 1)

    assert seeds_of_round(connection, JOB, 1) == frozenset()
    assert seeds_of_round(connection, JOB, 2) == {2}
