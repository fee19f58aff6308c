"""The coordinator may die at any commit: each round has one noised sum, and each device is counted once."""

from pathlib import Path

import pytest
from helpers.mortal_database import Fate, mortal_rig, next_rig
from helpers.rig import JOB, Rig, ScriptedDevice, run_to_end
from helpers.tiny_job import LAYOUT, THETA, job_toml, run_header

from fwdllm_common.replay import ModelState
from fwdllm_server.store import aggregations, releases, scalar_spans
from fwdllm_server.store.jobs import JobState

TOML = job_toml(
    {
        "rounds": {"count": 2, "min_devices": 2, "max_devices": 2},
        "blocks.peft": None,
        "blocks.head": {"directions": "auto", "batch_size": "auto"},
        "privacy": {"epsilon": 8.0, "delta": 1e-5, "clip": 1.0},
    }
)
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    Rig.create(folder, TOML, NAMES).database.close()
    return folder


@pytest.fixture
def sums(monkeypatch):
    """The noised sums that were written, whether or not their transaction came to its end."""
    written: list[tuple[int, bytes]] = []
    begin = aggregations.begin_summed

    def recorded(connection, job_id, round_number, total, weight, now):
        written.append((round_number, total.tobytes()))
        begin(connection, job_id, round_number, total, weight, now)

    monkeypatch.setattr(aggregations, "begin_summed", recorded)
    return written


def run(prepared: Path, folder: Path, fate: Fate) -> Rig:
    devices = [ScriptedDevice(name) for name in NAMES]
    return run_to_end(mortal_rig(prepared, folder, fate), devices, lambda dead: next_rig(dead, fate))


@pytest.mark.parametrize("when", ["before", "after"])
def test_wherever_the_coordinator_dies_a_round_has_one_noised_sum(prepared, sums, tmp_path, when):
    fate = Fate()
    run(prepared, tmp_path / "undisturbed", fate).database.close()
    commits = fate.commits
    assert [number for number, _ in sums] == [1, 2]
    drawn_again = 0
    for dies_at in range(1, commits + 1):
        sums.clear()
        fate = Fate(dies_at, when)
        rig = run(prepared, tmp_path / str(dies_at), fate)
        place = f"died {when} commit {dies_at} of {commits}"

        assert fate.estate.exists(), place
        assert rig.record.state == JobState.DONE, place
        entries = rig.ledger()
        assert len(entries) == 2, place
        again = ModelState.initial(run_header(rig.job.spec), LAYOUT, THETA)
        for entry in entries:
            again.advance(entry)
        assert again.digest == rig.job.state.digest, place
        # A sum is drawn again only where the coordinator died before it was durable, with the scalars still there.
        drawn_again += len(sums) - 2
        assert len(sums) <= 2 + (when == "before"), place
        with rig.database.transaction() as connection:
            assert releases.most(connection, JOB) == 2, place
            assert not any(scalar_spans.of_round(connection, JOB, number) for number in (1, 2)), place
        rig.database.close()
    assert drawn_again == (2 if when == "before" else 0)
