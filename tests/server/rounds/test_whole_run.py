import numpy as np
import pytest
from helpers.rig import JOB, ScriptedDevice, derivative, run_to_end, work_until
from helpers.tiny_job import LAYOUT, THETA, tiny_manifest

from fwdllm_common.errors import BadInputError
from fwdllm_common.estimator import Scalar
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.replay import ModelState
from fwdllm_server.rounds import committing
from fwdllm_server.store import ledger, scalars
from fwdllm_server.store.jobs import JobState

ABC = ("a", "b", "c")


def run(rig):
    return run_to_end(rig, [ScriptedDevice(name) for name in ABC])


def test_a_job_commits_all_its_rounds_and_is_done(make_rig):
    rig = run(make_rig(count=3))

    assert (rig.record.state, rig.phases(), rig.job.state.version) == (JobState.DONE, ["committed"] * 3, 3)


def test_the_ledger_replays_to_the_model(make_rig):
    rig = run(make_rig(count=3))
    replayed = ModelState.initial(rig.job.header, LAYOUT, THETA)
    for entry in rig.ledger():
        replayed.advance(entry)  # raises unless θ has the entry's digest

    assert replayed.digest == rig.job.state.digest
    assert not np.array_equal(replayed.theta, THETA)


def test_the_ledger_holds_what_the_devices_measured(make_rig):
    rig = run(make_rig({"robust": {"clip": 0}}, count=1))
    (entry,) = rig.ledger()

    assert [(update.block, len(update.seeds)) for update in entry.updates] == [("peft", 6), ("head", 9)]
    for update in entry.updates:
        measured = [to_fixed_point(np.float32(derivative(int(seed)))) for seed in update.seeds]
        assert update.coefficients.tolist() == measured


def test_every_direction_is_measured_by_one_device(make_rig):
    rig = make_rig()
    work = rig.begin_round(*ABC)
    seeds = [seed for assignment in work for seed in assignment.seeds]

    assert [assignment.directions for assignment in work] == [5, 5, 5]
    assert len(set(seeds)) == 6 + 9


def test_the_scalars_of_a_committed_round_are_forgotten(make_rig):
    rig = run(make_rig(count=1))

    with rig.database.transaction() as connection:
        assert scalars.count(connection, JOB, 1) == 0


def test_a_job_waits_for_the_evaluation_of_its_last_version(make_rig):
    rig = make_rig(count=1)
    for work in rig.begin_round(*ABC):
        rig.finish(work)
    step = rig.settle()
    assert (step.moved, step.job_ended, rig.record.state) == (False, False, JobState.RUNNING)

    rig.evaluate()
    assert rig.settle().job_ended
    assert rig.record.state == JobState.DONE


def test_the_last_version_is_a_snapshot(make_rig):
    rig = run(make_rig(count=2))
    with rig.database.transaction() as connection:
        version, sha256 = ledger.latest_snapshot(connection, JOB)

    assert version == 2
    assert rig.artifacts.get(sha256) == rig.job.state.to_bytes()


def test_a_device_with_more_rows_counts_for_more(make_rig):
    """Half of the directions each, rows as 1 : 3, so their scalars weigh ½ and 1½."""
    rig = make_rig(count=1, min_devices=2)
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE devices SET training_examples = 150 WHERE id = 'b'")
        connection.exec_driver_sql("UPDATE devices SET training_examples = 50 WHERE id = 'a'")
    for work in rig.begin_round("a", "b"):
        rig.report(work.id, [1.0] * work.directions)
    rig.settle()
    peft = rig.ledger()[0].updates[0]

    assert np.array_equal(peft.coefficients / to_fixed_point(1.0), np.repeat([0.5, 1.5], 3))


def test_a_restart_between_rounds_goes_on_with_the_replayed_model(make_rig):
    rig = make_rig(count=2)
    for work in rig.begin_round(*ABC):
        rig.finish(work)
    rig.settle()
    again = type(rig)(rig.database, rig.artifacts, rig.now)

    assert again.job.state.version == 1
    assert again.job.state.to_bytes() == rig.job.state.to_bytes()


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_snapshot_and_the_ledger_after_it_are_the_model_for_every_optimiser(make_rig, kind):
    rig = run(make_rig({"optimizer": {"kind": kind}}, count=2))
    with rig.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM snapshots WHERE version > 0")
    again = type(rig)(rig.database, rig.artifacts, rig.now)

    assert again.job.state.to_bytes() == rig.job.state.to_bytes()


def test_a_scalar_is_a_plain_triple_of_the_store(make_rig):
    rig = make_rig()
    work = rig.begin_round(*ABC)[0]
    rig.report(work.id, [0.5])
    with rig.database.transaction() as connection:
        stored = scalars.of_round(connection, JOB, 1)

    assert stored == [Scalar(work.seeds[0], 1 << 23, "a", 50)]


def snapshot_files(rig):
    of_the_model = {rig.job.manifest_sha256, tiny_manifest().tokenizer.sha256}
    return {path.name for path in rig.artifacts.path("x").parent.iterdir()} - of_the_model


def test_a_long_run_keeps_its_first_snapshot_and_the_newest(make_rig, monkeypatch):
    monkeypatch.setattr(committing, "SNAPSHOT_EVERY", 2)
    rig = run(make_rig(count=12))
    with rig.database.transaction() as connection:
        found = ledger.snapshots_of(connection, JOB)

    assert [version for version, _ in found] == [12, 10, 8, 0]
    assert snapshot_files(rig) == {sha256 for _, sha256 in found}


def test_a_start_replays_no_more_of_a_long_ledger_than_a_snapshot_is_old(make_rig, monkeypatch):
    rig = make_rig(count=committing.SNAPSHOT_EVERY * 2 + 7, evaluate_every=100)
    work_until(rig, [ScriptedDevice(name) for name in ABC], committing.SNAPSHOT_EVERY * 2 + 6)
    replayed = []
    advance = ModelState.advance
    monkeypatch.setattr(
        ModelState, "advance", lambda state, entry: replayed.append(entry.version) or advance(state, entry)
    )
    again = type(rig)(rig.database, rig.artifacts, rig.now)

    assert again.job.state.to_bytes() == rig.job.state.to_bytes()
    assert replayed == list(range(committing.SNAPSHOT_EVERY * 2 + 1, committing.SNAPSHOT_EVERY * 2 + 7))


def test_rounds_that_take_long_to_replay_are_snapshots_sooner(make_rig, monkeypatch):
    """Here after every second round of the same size."""
    monkeypatch.setattr(committing, "MOST_REPLAYED", int(1.5 * 15 * LAYOUT.size))
    rig = make_rig(count=7, evaluate_every=100)
    work_until(rig, [ScriptedDevice(name) for name in ABC], 6)
    with rig.database.transaction() as connection:
        assert [version for version, _ in ledger.snapshots_of(connection, JOB)] == [6, 4, 2, 0]
    assert len(rig.ledger()[0].updates[0].seeds) + len(rig.ledger()[0].updates[1].seeds) == 15


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")])
def test_a_snapshot_that_is_lost_is_replayed_from_the_one_before(make_rig, harm):
    rig = run(make_rig(count=2))
    with rig.database.transaction() as connection:
        version, sha256 = ledger.latest_snapshot(connection, JOB)
    harm(rig.artifacts.path(sha256))
    again = type(rig)(rig.database, rig.artifacts, rig.now)

    assert version == again.job.state.version == 2
    assert again.job.state.to_bytes() == rig.job.state.to_bytes()


def test_without_the_first_snapshot_there_is_no_model(make_rig):
    rig = make_rig()
    for path in snapshot_files(rig):
        rig.artifacts.path(path).unlink()
    with pytest.raises(BadInputError, match="restore it from a backup"):
        type(rig)(rig.database, rig.artifacts, rig.now)
