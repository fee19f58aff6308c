"""The coordinator may die at any commit of a secured round: the sum is that of the run in which it never died."""

from pathlib import Path

import pytest
from helpers.cohort_device import CohortDevice, run_cohort
from helpers.mortal_database import Fate, mortal_rig, next_rig
from helpers.rig import Rig
from helpers.tiny_job import job_toml

from fwdllm_server.store.rounds import Phase

NAMES = [f"device-{letter}" for letter in "abcdefgh"]
SECURED = job_toml(
    {
        "privacy": {"secure_aggregation": True},
        "rounds": {"count": 1, "min_devices": 8, "max_devices": 8},
        "blocks.peft": None,
        "blocks.head": {"directions": "auto", "batch_size": "auto"},
    }
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job that has not begun its first round."""
    folder = tmp_path_factory.mktemp("prepared")
    Rig.create(folder, SECURED, NAMES).database.close()
    return folder


def run(prepared: Path, folder: Path, fate: Fate) -> tuple[list[str], list[bytes], list[CohortDevice]]:
    devices = [CohortDevice(name) for name in NAMES]
    rig = run_cohort(
        mortal_rig(prepared, folder, fate),
        devices,
        lambda rig: rig.round.phase in (Phase.COMMITTED, Phase.ABANDONED),
        lambda dead: next_rig(dead, fate),
    )
    result = rig.phases(), rig.ledger_bytes(), devices
    rig.database.close()
    return result


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[bytes]]:
    """Commits and ledger of the run in which nobody dies."""
    fate = Fate()
    phases, entries, _ = run(prepared, tmp_path_factory.mktemp("undisturbed") / "run", fate)
    assert phases == ["committed"]
    return fate.commits, entries


@pytest.mark.parametrize("when", ["after", "before"])
def test_wherever_the_coordinator_dies_the_sum_is_the_same(prepared, undisturbed, tmp_path, when):
    """After a commit the answer is lost, before it the message: every second commit in both ways leaves every state."""
    commits, entries = undisturbed
    for dies_at in range(2, commits + 1, 2):
        fate = Fate(dies_at, when)
        phases, found, devices = run(prepared, tmp_path / str(dies_at), fate)
        place = f"died {when} commit {dies_at} of {commits}"

        assert fate.estate.exists(), place
        assert phases == ["committed"], place
        assert found == entries, place
        for device in devices:  # one message of each kind, however often it was sent
            for requests in device.sent.values():
                kinds = [request.WhichOneof("message") for request in requests]
                assert len(kinds) == len(set(kinds)), place
