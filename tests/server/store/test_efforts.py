from helpers.rig import JOB

from fwdllm.v1.device_pb2 import Effort
from fwdllm_server.store import efforts


def add(connection, accepted: int = 0, **counters: float) -> None:
    efforts.add(connection, JOB, "ann", accepted, Effort(**counters))


def test_seconds_and_passes_are_differences_and_add_up(connection):
    add(connection, 3, seconds=1.5, example_passes=10)
    add(connection, 4, seconds=0.5, example_passes=5)
    (row,) = efforts.of_job(connection, JOB)

    assert (row.device_id, row.scalars, row.seconds, row.example_passes) == ("ann", 7, 2.0, 15.0)


def test_byte_counters_are_totals_of_a_process(connection):
    add(connection, bytes_sent=100, bytes_received=1000)
    add(connection, bytes_sent=150, bytes_received=1000)
    (row,) = efforts.of_job(connection, JOB)

    assert (row.bytes_sent, row.bytes_received) == (150, 1000)


def test_a_process_that_began_anew_counts_from_zero(connection):
    add(connection, bytes_sent=100)
    add(connection, bytes_sent=30)
    add(connection, bytes_sent=40)

    assert efforts.of_job(connection, JOB)[0].bytes_sent == 140


def test_of_memory_the_largest_is_kept(connection):
    add(connection, peak_rss_bytes=500)
    add(connection, peak_rss_bytes=300)

    assert efforts.of_job(connection, JOB)[0].peak_rss_bytes == 500
