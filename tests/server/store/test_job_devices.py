import pytest
from helpers.rig import JOB

from fwdllm.v1.device_pb2 import ResourceUsage
from fwdllm_server.store import job_devices
from fwdllm_server.store.job_devices import Spent


def add(connection, accepted: int = 0, **counters: float) -> None:
    job_devices.add(connection, [Spent(JOB, "ann", accepted, ResourceUsage(**counters))])


def test_seconds_and_passes_are_differences_and_add_up(connection):
    add(connection, 3, seconds=1.5, example_passes=10)
    add(connection, 4, seconds=0.5, example_passes=5)
    (row,) = job_devices.of_job(connection, JOB)

    assert (row.device_id, row.scalars, row.seconds, row.example_passes) == ("ann", 7, 2.0, 15.0)


def test_byte_counters_are_totals_of_a_process(connection):
    add(connection, bytes_sent=100, bytes_received=1000)
    add(connection, bytes_sent=150, bytes_received=1000)
    (row,) = job_devices.of_job(connection, JOB)

    assert (row.bytes_sent, row.bytes_received) == (150, 1000)


def test_a_process_that_began_anew_counts_from_zero(connection):
    add(connection, bytes_sent=100)
    add(connection, bytes_sent=30)
    add(connection, bytes_sent=40)

    assert job_devices.of_job(connection, JOB)[0].bytes_sent == 140


def test_joules_add_up_and_are_null_until_there_are_any(connection):
    add(connection, seconds=1.0)
    assert job_devices.of_job(connection, JOB)[0].joules is None
    assert job_devices.total(connection, JOB)[-2:] == (0, 0.0)
    add(connection, joules=1.5)
    add(connection, seconds=1.0)
    add(connection, joules=2.0)

    assert job_devices.of_job(connection, JOB)[0].joules == 3.5
    assert job_devices.total(connection, JOB)[-2:] == (1, 3.5)


def test_of_memory_the_largest_is_kept(connection):
    add(connection, peak_rss_bytes=500)
    add(connection, peak_rss_bytes=300)

    assert job_devices.of_job(connection, JOB)[0].peak_rss_bytes == 500


def speed(connection) -> float | None:
    return job_devices.speeds(connection, JOB, ["ann", "bob"]).get("ann")


def test_a_speed_is_passes_by_seconds(connection):
    for _ in range(3):
        add(connection, seconds=2, example_passes=10)

    assert speed(connection) == pytest.approx(5)


def test_a_speed_needs_a_second_of_computing(connection):
    add(connection, seconds=0.75, example_passes=10)
    assert speed(connection) is None

    add(connection, seconds=0.75, example_passes=5)
    assert speed(connection) == pytest.approx(10, rel=0.02)


def test_a_device_that_got_slower_is_known_to_be_after_a_minute_of_computing(connection):
    for _ in range(100):
        add(connection, seconds=10, example_passes=100)
    for _ in range(6):
        add(connection, seconds=10, example_passes=10)

    assert speed(connection) == pytest.approx((10 + 63 * 1) / 64)


@pytest.mark.parametrize("absurd", [{"seconds": 1e300}, {"seconds": 8 * 3600.0, "example_passes": 1.0}])
def test_one_absurdly_long_report_is_forgotten_within_minutes(connection, absurd):
    """A process may have been frozen for a night."""
    for _ in range(10):
        add(connection, seconds=10, example_passes=100)
    add(connection, **absurd)
    assert speed(connection) < 6
    for _ in range(12):
        add(connection, seconds=10, example_passes=100)

    assert speed(connection) > 9


@pytest.mark.parametrize(
    "absurd", [{"example_passes": 1e300}, {"seconds": 1.0, "example_passes": 1e12}, {"seconds": 0.0}]
)
def test_a_report_that_no_device_can_mean_says_nothing_of_its_speed(connection, absurd):
    add(connection, seconds=2, example_passes=10)
    add(connection, **absurd)

    assert speed(connection) == pytest.approx(5)


def test_a_device_that_passes_nothing_has_no_speed(connection):
    add(connection, seconds=100)
    assert speed(connection) is None

    add(connection, seconds=1e300, example_passes=5e-324)
    assert speed(connection) is None
