"""Thousands of rounds: memory, open files and the database's growth by a round stay what they were."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from helpers.rig import Rig, ScriptedDevice
from helpers.tiny_job import job_toml
from sqlalchemy import event

_DEVICES = ("a", "b", "c")


class Reading(NamedTuple):
    memory_bytes: int
    descriptors: int
    database_bytes: int


def test_nothing_grows_from_round_to_round(tmp_path: Path) -> None:
    rig = _begin(tmp_path)
    tracemalloc.start()
    try:
        readings = _readings(rig, [8, 16, 24], lambda: tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    _check(readings, most_memory=100_000, pages=4)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_nothing_grows_in_ten_thousand_rounds(tmp_path: Path) -> None:
    process = psutil.Process()
    readings = _readings(_begin(tmp_path), [100, 5_050, 10_000], lambda: int(process.memory_info().rss))
    _check(readings, most_memory=16 << 20, pages=200)


def _begin(folder: Path) -> Rig:
    # More rounds than are made: after the last one the job would wait for its evaluation.
    rig = Rig.create(folder, job_toml({"rounds": {"count": 20_000, "max_devices": 3, "evaluate_every": 0}}))
    # What is flushed when is not what this is about.
    event.listen(rig.database._engine, "checkout", lambda raw, *_: raw.execute("PRAGMA synchronous = OFF"))
    return rig


def _readings(rig: Rig, versions: list[int], memory: Callable[[], int]) -> list[Reading]:
    """What is used when each of these versions has been committed."""
    devices, found = [ScriptedDevice(name) for name in _DEVICES], []
    for version in versions:
        while rig.job.state.version < version:
            before = rig.job.state.version
            for _ in range(4):  # check in; be selected and fetch; report; the round closes
                for device in devices:
                    device.work(rig)
                rig.settle()
                rig.now += 1
            assert rig.job.state.version > before, f"version {before} has no next: {rig.round}"
        gc.collect()
        found.append(Reading(memory(), psutil.Process().num_fds(), _database_bytes(rig)))
    return found


def _check(readings: list[Reading], most_memory: int, pages: int) -> None:
    first, middle, last = readings
    assert last.memory_bytes - middle.memory_bytes < most_memory
    assert last.descriptors == middle.descriptors == first.descriptors
    earlier, later = middle.database_bytes - first.database_bytes, last.database_bytes - middle.database_bytes
    assert later <= earlier + pages * 4096


def _database_bytes(rig: Rig) -> int:
    with rig.database.transaction() as connection:
        pages, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in ("page_count", "page_size")
        )
    return pages * size
