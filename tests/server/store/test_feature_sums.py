import numpy as np
import pytest
from helpers.rig import JOB
from sqlalchemy.exc import IntegrityError

from fwdllm_server.store import feature_sums, jobs
from fwdllm_server.store.feature_sums import FeatureSumRecord

FEATURES = np.array([0.1, -2.5, 3e7], dtype=np.float32)


def add(connection, device, label, rows=8):
    feature_sums.add(connection, JOB, FeatureSumRecord(device, label, rows, FEATURES))


def test_sums_come_back_as_they_were(connection):
    add(connection, "bob", 1, rows=9)
    add(connection, "ann", 1)
    add(connection, "ann", 0)
    found = list(feature_sums.of_job(connection, JOB))

    assert [(record.device_id, record.label, record.rows) for record in found] == [
        ("ann", 0, 8),
        ("ann", 1, 8),
        ("bob", 1, 9),
    ]
    assert all(record.features.tobytes() == FEATURES.tobytes() for record in found)


def test_who_has_sent_what(connection):
    add(connection, "bob", 2, rows=9)
    add(connection, "bob", 0)
    add(connection, "ann", 2)

    assert feature_sums.rows_of_device(connection, JOB, "bob") == {0: 8, 2: 9}
    assert feature_sums.rows_of_device(connection, JOB, "cid") == {}
    assert feature_sums.sources(connection, JOB) == ({"ann", "bob"}, {0, 2})
    assert feature_sums.sources(connection, "another") == (frozenset(), frozenset())


def test_the_store_itself_counts_a_devices_sum_of_a_class_once(database):
    with database.transaction() as connection:
        add(connection, "ann", 0)
    with pytest.raises(IntegrityError), database.transaction() as connection:
        add(connection, "ann", 0, rows=20)


def test_an_uninitialised_head_is_exported_and_has_no_header(connection):
    jobs.exported_without_head(connection, JOB, "m" * 64, "d" * 64, 17)
    record = jobs.get(connection, JOB)

    assert (record.header, record.manifest_sha256, record.headless_sha256) == (None, "m" * 64, "d" * 64)
    assert (record.state, record.head_init, record.trainable_parameters) == ("preparing", "", 17)
