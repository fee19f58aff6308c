"""Who drives a job, and that nobody else can write what its driver writes."""

import threading
import time
from collections.abc import Iterator

import pytest
from helpers.postgres import Postgres
from helpers.rig import JOB, Rig, add_devices
from helpers.tiny_job import add_tiny_job, add_unprepared_job, job_toml
from sqlalchemy import update

from fwdllm_server.config.server_config import StoreSection
from fwdllm_server.coordinator.grpc_fleet import POLL_S
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.store import jobs, leases, locks, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.jobs import JobState
from fwdllm_server.store.leases import Lease, LeaseLostError


@pytest.fixture
def shared(postgres: Postgres) -> Iterator[Database]:
    """A database that several coordinators use, with one job."""
    database = Database(postgres.create_database())
    with database.transaction() as connection:
        add_unprepared_job(connection, JOB)
    yield database
    database.close()


def take(database: Database, holder: str, seconds: float = 3600.0) -> Lease | None:
    with database.transaction() as connection:
        return leases.take(connection, JOB, holder, seconds)


def taken(database: Database, holder: str) -> Lease:
    lease = take(database, holder)
    assert lease is not None
    return lease


def check(database: Database, lease: Lease) -> None:
    with database.transaction() as connection:
        leases.check(connection, lease)


def let_expire(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(update(schema.leases).values(expires_at=leases.database_time(connection) - 1))


def test_a_lease_that_is_held_is_not_given_to_another(shared):
    lease = taken(shared, "one")

    assert take(shared, "two") is None
    check(shared, lease)


def test_one_that_has_expired_is_and_the_former_holder_can_write_no_more(shared):
    lease = taken(shared, "one")
    let_expire(shared)
    check(shared, lease)  # late, but nobody has taken it
    later = taken(shared, "two")

    assert later.token > lease.token
    with pytest.raises(LeaseLostError, match="driven by two"):
        check(shared, lease)
    with pytest.raises(LeaseLostError), shared.transaction() as connection:
        leases.renew(connection, lease, 3600.0)
    check(shared, later)


def test_a_renewed_lease_has_not_expired(shared):
    lease = taken(shared, "one")
    let_expire(shared)
    with shared.transaction() as connection:
        leases.renew(connection, lease, 3600.0)

    assert take(shared, "two") is None


def test_a_released_lease_can_be_had_at_once(shared):
    lease = taken(shared, "one")
    with shared.transaction() as connection:
        leases.release(connection, lease)

    assert take(shared, "two") is not None


def test_who_has_lost_a_lease_cannot_release_it(shared):
    lease = taken(shared, "one")
    let_expire(shared)
    taken(shared, "two")
    with shared.transaction() as connection:
        leases.release(connection, lease)

    assert take(shared, "three") is None


def test_a_coordinator_that_was_started_again_gets_its_own_back_under_a_new_token(database):
    first = taken(database, "one")
    second = taken(database, "one")

    assert second.token > first.token
    with pytest.raises(LeaseLostError):
        check(database, first)


def test_sqlite_has_one_coordinator_whatever_it_is_called(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'fwdllm.db'}")
    with database.transaction() as connection:
        add_unprepared_job(connection, JOB)
    taken(database, "before the folder was moved")

    assert take(database, "after") is not None
    database.close()


@pytest.mark.parametrize("state", [JobState.STOPPED, JobState.DONE, JobState.FAILED])
def test_a_job_that_has_ended_is_driven_by_nobody(database, state):
    lease = taken(database, "one")
    with database.transaction() as connection:
        jobs.set_state(connection, JOB, state, "", 1.0)

    with pytest.raises(LeaseLostError, match=state):
        check(database, lease)


def test_nobody_takes_a_lease_in_the_middle_of_its_holders_transaction(shared):
    lease = taken(shared, "one")
    with shared.transaction() as connection:
        leases.check(connection, lease)
        connection.execute(update(schema.leases).values(expires_at=0.0))
        assert take(shared, "two") is None  # and it does not wait

    assert take(shared, "two") is not None


def test_the_databases_clock_is_about_ours(database):
    with database.transaction() as connection:
        assert abs(leases.database_time(connection) - time.time()) < 3600


def test_the_jobs_of_a_dead_coordinator_are_driven_again_within_ten_seconds():
    assert StoreSection().lease_s + 2 * POLL_S < 8


def test_rounds_do_not_move_while_somebody_reports_on_them(shared):
    moved = threading.Event()

    def move() -> None:
        with shared.transaction() as connection:
            locks.move_rounds(connection, JOB)
        moved.set()

    with shared.transaction() as one, shared.transaction() as two:
        assert locks.follow_rounds(one, JOB)
        assert locks.follow_rounds(two, JOB)  # two may report at once
        thread = threading.Thread(target=move)
        thread.start()
        assert not moved.wait(0.1)
    thread.join(10)

    assert moved.is_set()


def test_a_paused_driver_that_wakes_up_moves_nothing(postgres, tmp_path):
    """Two round machines, as in two processes: the first is paused between two steps for longer than its lease."""
    database, artifacts = Database(postgres.create_database()), ArtifactStore(tmp_path / "artifacts")
    add_tiny_job(database, artifacts, job_toml(), JOB)
    add_devices(database, ("a", "b", "c"))
    first, second = Rig(database, artifacts), Rig(database, artifacts)
    first.machine = RoundMachine(database, artifacts, first.presence, first.job, taken(database, "one"))
    work = first.begin_round("a", "b", "c")
    let_expire(database)
    second.machine = RoundMachine(database, artifacts, second.presence, second.job, taken(database, "two"))
    for each in work:
        second.finish(each)

    with pytest.raises(LeaseLostError):
        first.settle()
    assert second.ledger_bytes() == []
    second.settle()
    with pytest.raises(LeaseLostError):
        first.settle()
    assert (len(second.ledger_bytes()), first.job.state.version, second.job.state.version) == (1, 0, 1)
    with database.transaction() as connection:
        first.job.catch_up(connection)
    assert first.job.state.digest == second.job.state.digest
    database.close()
