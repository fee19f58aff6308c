from __future__ import annotations

import numpy as np
import pytest
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.cache.weights import Weights
from fwdllm_client.connection.retry import Retry
from fwdllm_common.errors import IntegrityError
from fwdllm_common.layout import Layout, TensorSpec

SNAPSHOT = device_pb2.WeightsChunk.KIND_SNAPSHOT


@pytest.fixture
def stop(new_stop):
    return new_stop()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "weights"


@pytest.fixture
def new_weights(folder, link, stop):
    """Each is a new life of the process."""
    return lambda: Weights(folder, link, Retry(link.address, stop))


def at(weights, job, **changes):
    return weights.at(job.assignment(**changes), job.header, job.layout)


def held(coordinator):
    """What the device said it holds, request by request."""
    return [request.held_version if request.has_version else None for request in coordinator.weights_requests]


def assert_same(state, expected):
    assert state.version == expected.version
    assert state.to_bytes() == expected.to_bytes()


def test_version_0_comes_as_a_snapshot(new_weights, job, coordinator):
    assert_same(at(new_weights(), job), job.state)
    assert held(coordinator) == [None]


def test_the_ledger_brings_it_further_in_memory_and_from_disk(new_weights, job, coordinator):
    weights = new_weights()
    at(weights, job)
    job.commit()
    job.commit()
    assert_same(at(weights, job), job.state)
    job.commit()
    assert_same(at(new_weights(), job), job.state)
    assert held(coordinator) == [None, 0, 2]


def test_the_same_version_needs_no_call(new_weights, job, coordinator):
    weights = new_weights()
    at(weights, job)
    at(weights, job)
    at(new_weights(), job)
    assert held(coordinator) == [None]


def test_a_snapshot_may_be_smaller_than_the_ledger(new_weights, job, coordinator):
    weights = new_weights()
    at(weights, job)
    job.commit()
    snapshot = job.state.to_bytes()
    coordinator.on_weights = lambda request: [device_pb2.WeightsChunk(kind=SNAPSHOT, data=snapshot)]
    assert_same(at(weights, job), job.state)
    assert held(coordinator) == [None, 0]


def test_each_job_has_its_own(new_weights, job, coordinator):
    weights = new_weights()
    at(weights, job)
    at(weights, job, job_id="../other")
    at(weights, job)
    assert held(coordinator) == [None, None]


def test_a_cut_stream_is_repeated(new_weights, job, coordinator, refuse, stop):
    def cut_once(request):
        for index, chunk in enumerate(job.weights(request)):
            if index == 2 and len(coordinator.weights_requests) == 1:
                raise refuse(StatusCode.UNAVAILABLE)
            yield chunk

    coordinator.on_weights = cut_once
    assert_same(at(new_weights(), job), job.state)
    assert len(stop.waits) == 1


@pytest.mark.parametrize("damage", ["theta", "moment", "cut", "nothing"])
def test_damaged_local_weights_are_replaced(damage, new_weights, folder, job, coordinator):
    at(new_weights(), job)
    (file,) = folder.glob("*.weights")
    data = bytearray(file.read_bytes())
    if damage == "theta":
        data[20] ^= 1
    elif damage == "moment":
        data[200:208] = b"?" * 8  # of the block that the next round moves
    elif damage == "cut":
        del data[-9:]
    else:
        data.clear()
    file.write_bytes(data)
    job.commit()
    assert_same(at(new_weights(), job), job.state)
    assert held(coordinator)[-1] is None


def test_a_coordinator_that_went_back_is_followed(new_weights, job, coordinator):
    weights = new_weights()
    old = job.assignment()
    job.commit()
    at(weights, job)
    snapshot = type(job)(coordinator).state
    coordinator.on_weights = lambda request: [device_pb2.WeightsChunk(kind=SNAPSHOT, data=snapshot.to_bytes())]
    assert weights.at(old, job.header, job.layout).version == 0
    assert held(coordinator) == [None, None]


def test_a_wrong_ledger_costs_a_snapshot(new_weights, job, coordinator):
    weights = new_weights()
    at(weights, job)
    job.commit()
    ledger = job.ledger
    job.ledger = [type(ledger[0])(1, (), b"")]
    assert_same(at(weights, job), job.state)
    assert held(coordinator) == [None, 0, None]


@pytest.mark.parametrize("kind", list(device_pb2.WeightsChunk.Kind.values()))
def test_garbage_is_refused(kind, new_weights, job, coordinator, folder):
    coordinator.on_weights = lambda request: [device_pb2.WeightsChunk(kind=kind, data=b"\xff\xff garbage")]
    with pytest.raises(IntegrityError, match=r"quadratic.*version 0.*announced hash"):
        at(new_weights(), job)
    assert held(coordinator) == [None]
    assert not folder.exists()


def test_a_wrong_snapshot_is_never_used(new_weights, job, coordinator, folder):
    weights = new_weights()
    at(weights, job)
    job.commit()
    wrong = job.assignment(theta_digest=bytes(32))
    with pytest.raises(IntegrityError, match=f"version 1 from {coordinator.address}.*{bytes(32).hex()}"):
        weights.at(wrong, job.header, job.layout)
    assert held(coordinator) == [None, 0, None]


def test_endless_weights_are_cut_off(new_weights, job, coordinator):
    coordinator.on_weights = lambda request: (
        device_pb2.WeightsChunk(kind=SNAPSHOT, data=bytes(1 << 19)) for _ in range(1000)
    )
    with pytest.raises(IntegrityError, match="more than"):
        at(new_weights(), job)


def test_a_layout_of_another_run_is_refused(new_weights, job, coordinator):
    other = Layout((TensorSpec("a", (2,), "body"),))
    with pytest.raises(IntegrityError, match="layout"):
        new_weights().at(job.assignment(), job.header, other)
    assert np.array(held(coordinator)).size == 0
