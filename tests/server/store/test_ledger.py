import numpy as np
import pytest
from helpers.rig import JOB
from helpers.tiny_job import add_unprepared_job
from sqlalchemy.exc import IntegrityError

from fwdllm_common.ledger import BlockUpdate, LedgerEntry
from fwdllm_server.store import ledger
from fwdllm_server.store.ledger import EvaluationRecord


def entry(version: int, directions: int = 3) -> LedgerEntry:
    seeds = np.arange(directions, dtype=np.uint64) + np.uint64(version << 32)
    update = BlockUpdate("head", seeds, np.arange(directions, dtype=np.int64), np.float32(0.1))
    return LedgerEntry(version, (update,), bytes([version]) * 32)


def test_entries_come_back_byte_for_byte_in_order(connection):
    for version in (1, 2, 3):
        ledger.append(connection, JOB, entry(version), {}, 0.0)

    assert list(ledger.entries(connection, JOB, after=0)) == [entry(version).to_bytes() for version in (1, 2, 3)]
    assert list(ledger.entries(connection, JOB, after=1, up_to=2)) == [entry(2).to_bytes()]


def test_a_version_is_committed_once(connection):
    ledger.append(connection, JOB, entry(1), {}, 0.0)

    with pytest.raises(IntegrityError), connection.begin_nested():
        ledger.append(connection, JOB, entry(1, 2), {}, 1.0)


def test_totals_and_the_newest_digest_follow_the_entries(connection):
    assert (ledger.totals(connection, JOB), ledger.newest_digest(connection, JOB)) == ((0, 0), None)

    ledger.append(connection, JOB, entry(1, 3), {}, 0.0)
    ledger.append(connection, JOB, entry(2, 4), {}, 0.0)
    assert ledger.totals(connection, JOB) == (2, 7)
    assert ledger.newest_digest(connection, JOB) == bytes([2]) * 32


def test_the_last_entry_is_the_newest_of_the_job(connection):
    assert ledger.last_entry(connection, JOB) is None

    for version in (1, 2):
        ledger.append(connection, JOB, entry(version), {}, 0.0)
    found = ledger.last_entry(connection, JOB)
    assert found is not None
    assert found.to_bytes() == entry(2).to_bytes()
    assert ledger.last_entry(connection, "another") is None


def test_the_newest_snapshot_is_the_one_to_start_from(connection):
    assert ledger.latest_snapshot(connection, JOB) is None

    for version, sha256 in ((0, "a" * 64), (20, "b" * 64), (20, "c" * 64)):
        ledger.add_snapshot(connection, JOB, version, sha256)
    assert ledger.latest_snapshot(connection, JOB) == (20, "c" * 64)


def test_of_old_snapshots_the_first_is_kept_and_what_another_job_refers_to(connection):
    add_unprepared_job(connection, "other", "other")
    ledger.add_snapshot(connection, "other", 20, "20")
    for version in (0, 20, 40, 60, 80):
        ledger.add_snapshot(connection, JOB, version, str(version))

    assert ledger.forget_snapshots(connection, JOB, keep=2) == {"40"}
    assert ledger.snapshots_of(connection, JOB) == [(80, "80"), (60, "60"), (0, "0")]
    assert ledger.forget_snapshots(connection, JOB, keep=2) == frozenset()
    assert ledger.forget_snapshots(connection, JOB, keep=9) == frozenset()
    assert ledger.latest_snapshot(connection, "other") == (20, "20")


def test_evaluating_a_version_again_replaces_its_evaluation(connection):
    for record in (EvaluationRecord(5, 0.5, 0.7, 10), EvaluationRecord(0, 0.2, 1.6, 10)):
        ledger.add_evaluation(connection, JOB, record)
        ledger.add_evaluation(connection, JOB, record)

    assert [record.version for record in ledger.evaluations_of(connection, JOB)] == [0, 5]


def test_the_scales_are_those_of_the_newest_version(connection):
    assert ledger.recent_scales(connection, JOB) == {}
    ledger.append(connection, JOB, entry(1), {"head": [3]}, 0.0)
    ledger.append(connection, JOB, entry(2), {"head": [3, 7], "peft": [1 << 40]}, 0.0)

    assert ledger.recent_scales(connection, JOB) == {"head": [3, 7], "peft": [1 << 40]}


def test_the_version_to_export_is_the_best_on_the_validation_rows(connection):
    ledger.add_evaluation(connection, JOB, EvaluationRecord(0, 0.9, 0.1, 10))
    assert ledger.best_version(connection, JOB) is None
    for version, accuracy, loss in ((1, 0.8, 0.5), (2, 0.9, 0.3), (3, 0.8, 0.2), (4, 0.7, 0.2), (5, 0.9, 0.4)):
        ledger.add_evaluation(connection, JOB, EvaluationRecord(version, 1.0, 0.1, 10, None, accuracy, loss))

    assert ledger.best_version(connection, JOB) == 4
