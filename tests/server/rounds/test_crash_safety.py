"""The coordinator may die before or after any commit: the run that goes on from its disk is the one that never died."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.mortal_database import Fate, mortal_rig, next_rig
from helpers.rig import JOB, Rig, ScriptedDevice, run_to_end
from helpers.tiny_job import job_toml

from fwdllm_common.ledger import LedgerEntry
from fwdllm_server.store import ledger
from fwdllm_server.store.jobs import JobState

TOML = job_toml(
    {
        "rounds": {"count": 2, "min_devices": 2, "federated_evaluate_every": 1},
        # One step more in the second block, so that extending a round is among what is interrupted. Even numbers: a
        # restart may change who measures what, and a device's weight depends on how many directions are its.
        "blocks.head": {"directions": 10, "max_directions": 20, "variance_threshold": 1e-9},
        # The second round's seeds follow from the ledger's last entry, whoever reads it.
        "blocks.head.sampling": {"keep": 0.25},
    }
)
COMPLETE = job_toml(
    {
        "rounds": {"count": 2, "min_devices": 2},
        "blocks.peft": None,
        "blocks.head": {"directions": "auto", "batch_size": "auto"},
    }
)
NAMES = ("a", "b")


@pytest.fixture(scope="module", params=[TOML, COMPLETE], ids=["paced", "complete"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job that has not begun its first round."""
    folder = tmp_path_factory.mktemp("prepared")
    Rig.create(folder, request.param, NAMES).database.close()
    return folder


def run(prepared: Path, folder: Path, fate: Fate) -> tuple[Rig, Sequence[ScriptedDevice]]:
    devices = [ScriptedDevice(name) for name in NAMES]
    return run_to_end(mortal_rig(prepared, folder, fate), devices, lambda dead: next_rig(dead, fate)), devices


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[bytes], bytes]:
    """Commits, ledger and θ's digest of the run in which nobody dies."""
    fate = Fate()
    rig, _ = run(prepared, tmp_path_factory.mktemp("undisturbed") / "run", fate)
    result = fate.commits, rig.ledger_bytes(), rig.job.state.digest
    rig.database.close()
    return result


@pytest.mark.parametrize(("prepared", "sizes"), [(TOML, [6, 20]), (COMPLETE, [16])], indirect=["prepared"])
def test_the_run_has_two_rounds_that_pacing_extended_or_that_are_complete(undisturbed, sizes):
    _, entries, _ = undisturbed
    found = [[len(update.seeds) for update in LedgerEntry.from_bytes(entry).updates] for entry in entries]

    assert found == [sizes, sizes]


@pytest.mark.parametrize("prepared", [TOML], indirect=True)
def test_the_second_round_is_sampled(undisturbed):
    _, entries, _ = undisturbed
    steps = [np.diff(LedgerEntry.from_bytes(entry).updates[1].seeds).max() for entry in entries]

    assert steps[0] == 1 < steps[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_wherever_the_coordinator_dies_the_ledger_and_the_model_are_the_same(prepared, undisturbed, tmp_path, when):
    commits, entries, digest = undisturbed
    for dies_at in range(1, commits + 1):
        fate = Fate(dies_at, when)
        rig, devices = run(prepared, tmp_path / str(dies_at), fate)
        place = f"died {when} commit {dies_at} of {commits}"

        assert fate.estate.exists(), place
        assert rig.record.state == JobState.DONE, place
        assert rig.ledger_bytes() == entries, place
        assert rig.job.state.digest == digest, place
        assert not any(device.journal for device in devices), place
        with rig.database.transaction() as connection:
            assert ledger.newest_digest(connection, JOB) == digest, place
        rig.database.close()
