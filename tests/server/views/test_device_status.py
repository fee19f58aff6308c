"""How a device stands follows from what it said last, how long ago, and what it has in hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_job import add_unprepared_job

from fwdllm.v1.conditions_pb2 import HOLD_METERED, HOLD_PAUSED, Conditions
from fwdllm_server.config.server_config import CheckInSection
from fwdllm_server.store import assignments, devices, jobs
from fwdllm_server.store.database import Database
from fwdllm_server.store.devices import Sighting
from fwdllm_server.store.jobs import JobState
from fwdllm_server.views.device_status import DeviceState, device_statuses, hold_words, reasons_there_are

NOW = 1_800_000_000.0
CHECK_IN = CheckInSection()
IDLE, HELD = Conditions(charging=True), Conditions(holds=[HOLD_PAUSED, HOLD_METERED])


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    with database.transaction() as connection:
        devices.add(connection, "dev-1", "pixel", "key", NOW - 10_000)
    return database


@pytest.mark.parametrize(
    ("conditions", "silent_s", "state", "reasons"),
    [
        (IDLE, 300, DeviceState.IDLE, ()),
        (None, 300, DeviceState.IDLE, ()),  # one minor version behind
        (IDLE, 400, DeviceState.AWAY, ("away",)),
        (HELD, 1_800, DeviceState.HELD, ("paused", "metered")),
        (HELD, 3_700, DeviceState.AWAY, ("away", "paused", "metered")),
    ],
)
def test_by_what_it_said_and_when(
    database: Database, conditions: Conditions | None, silent_s: float, state: DeviceState, reasons: tuple[str, ...]
) -> None:
    with database.transaction() as connection:
        devices.seen(connection, [Sighting("dev-1", 100, "fwdllm/0.1.0", conditions)], NOW - silent_s)
        [status] = device_statuses(connection, CHECK_IN, NOW)
    assert (status.state, status.reasons) == (state, reasons)
    assert set(reasons) <= set(reasons_there_are())


def test_one_that_never_came_is_away_and_one_that_was_revoked_is_that(database: Database) -> None:
    with database.transaction() as connection:
        assert device_statuses(connection, CHECK_IN, NOW)[0].state == DeviceState.AWAY
        devices.revoke(connection, "dev-1", NOW)
        [status] = device_statuses(connection, CHECK_IN, NOW)
    assert (status.state, status.reasons) == (DeviceState.REVOKED, ("revoked",))


def test_one_with_an_assignment_of_a_running_job_works_however_long_it_is_silent(database: Database) -> None:
    with database.transaction() as connection:
        add_unprepared_job(connection, "job-1", "news", NOW)
        jobs.set_state(connection, "job-1", JobState.RUNNING, "", NOW)
        assignments.offer(connection, "job-1", 1, "dev-1", [], False, NOW + 60)
        assert device_statuses(connection, CHECK_IN, NOW)[0].state == DeviceState.WORKING
        jobs.set_state(connection, "job-1", JobState.STOPPED, "", NOW)
        assert device_statuses(connection, CHECK_IN, NOW)[0].state == DeviceState.AWAY


def test_a_newer_devices_hold_is_its_number() -> None:
    newer = Conditions.FromString(Conditions(holds=[HOLD_PAUSED]).SerializeToString() + b"\x28\x63")
    assert hold_words(newer) == ("paused", "99")
