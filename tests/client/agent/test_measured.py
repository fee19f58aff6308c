"""What is measured at one θ of a job is bounded, whatever a coordinator asks for and however often."""

import pytest

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.measured import MeasuredDirections
from fwdllm_client.policy.policy import Privacy
from fwdllm_common.errors import NotAllowedError, StorageError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "measured.sqlite"


def assignment(name="a1", count=60, theta=b"1", block="head", job="job", **task):
    fields = {"seeds": [device_pb2.SeedRange(first=7, count=count)], "epsilon": 1e-3, "batch_size": 32} | task
    return device_pb2.Assignment(
        assignment_id=name,
        job_id=job,
        theta_digest=theta * 32,
        directions=[device_pb2.DirectionTask(block=block, **fields)],
    )


def test_directions_at_one_theta_are_counted_over_assignments_and_restarts(path):
    MeasuredDirections(path, 100).admit(assignment())
    with pytest.raises(
        NotAllowedError, match="asks for 120 directions of the block 'head' at one θ, this device measures at most 100"
    ):
        MeasuredDirections(path, 100).admit(assignment("a2"))
    MeasuredDirections(path, 100).admit(assignment("a2", count=40))


def test_directions_whose_scalars_are_masked_are_not_counted(path):
    """Rounds that are abandoned are repeated at one θ, and the coordinator sees a sum at most."""
    measured = MeasuredDirections(path, 100)
    for number in range(3):
        masked = assignment(f"a{number}", same_rows=True, batch_size=32 + number)
        masked.secure_aggregation.SetInParent()
        assert measured.admit(masked).directions[0].batch_size == 32
    measured.admit(assignment("b", count=100))


def test_an_assignment_that_is_repeated_counts_once(path):
    measured = MeasuredDirections(path, 100)
    for _ in range(3):
        measured.admit(assignment())
    with pytest.raises(NotAllowedError):  # the same name, and other directions
        measured.admit(assignment(seeds=[device_pb2.SeedRange(first=999, count=60)]))


@pytest.mark.parametrize("other", [{"theta": b"2"}, {"block": "peft"}, {"job": "another"}])
def test_another_theta_block_or_job_has_a_bound_of_its_own(path, other):
    measured = MeasuredDirections(path, 100)
    measured.admit(assignment())
    measured.admit(assignment("a2", **other))


def test_nothing_of_a_refused_assignment_is_counted(path):
    measured = MeasuredDirections(path, 100)
    twice = assignment()
    twice.directions.append(twice.directions[0])
    twice.directions[1].seeds[0].first = 300
    with pytest.raises(NotAllowedError):
        measured.admit(twice)
    measured.admit(assignment("a2", count=100))


def test_nested_batches_at_one_theta_have_one_size(path):
    """The difference of batches of 32 and 33 rows would be the gradient of a single row."""
    measured = MeasuredDirections(path, 1000)
    sizes = [32, 33, 40]
    admitted = [measured.admit(assignment(f"a{rows}", batch_size=rows, same_rows=True)) for rows in sizes]
    assert [each.directions[0].batch_size for each in admitted] == [32, 32, 32]
    assert measured.admit(assignment("b", batch_size=33)).directions[0].batch_size == 33  # draws rows of its own
    assert measured.admit(assignment("c", batch_size=64, same_rows=True, theta=b"2")).directions[0].batch_size == 64


def test_the_default_lets_every_round_of_a_single_device_work(path):
    """A job asks for 65,536 directions of a block in a round at most, which one device may have to measure alone."""
    measured = MeasuredDirections(path, Privacy().max_directions)
    for name in range(4):
        measured.admit(assignment(str(name), count=16384, packed=True, same_rows=True))


def test_a_damaged_record_is_a_storage_error(path):
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"cannot write .*measured\.sqlite"):
        MeasuredDirections(path, 10).admit(assignment())
