"""The agent on another processor: a whole job with one device on emulated aarch64, whose θ has the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.federation import Federation

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("debootstrap", "dpkg-deb", "qemu-aarch64-static")
MISSING = [name for name in NEEDED if shutil.which(name) is None]
# Emulation takes tens of times as long.
LONG_S = 1800

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(LONG_S),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

REPLAY = """
import platform, sys
from pathlib import Path
import numpy as np
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState
folder = Path(sys.argv[1])
layout = Manifest.from_bytes((folder / "manifest.json").read_bytes()).layout
header = RunHeader.from_bytes((folder / "header").read_bytes())
state = ModelState.initial(header, layout, np.load(folder / "initial_theta.npy"))
for entry in sorted(folder.glob("entry-*")):
    state.advance(LedgerEntry.from_bytes(entry.read_bytes()))
print(platform.machine(), state.digest.hex())
"""


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an aarch64 userland."""
    folder = tmp_path_factory.mktemp("aarch64")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY]
    subprocess.run(wheel, check=True)
    (made,) = folder.glob("*.whl")
    script = Path(__file__).with_name("aarch64_userland.sh")
    subprocess.run(["bash", script, folder, made, REPOSITORY / "constraints.txt"], check=True)
    return folder / "programs"


@pytest.fixture(scope="module")
def finished(
    workplace: Path, aarch64: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Federation, dict[str, object]]]:
    """A finished job of one device on aarch64 and one on this machine's processor."""
    with Federation(tmp_path_factory.mktemp("federation")) as federation:
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        federation.start_server()
        federation.join("device-1", aarch64)
        federation.join("device-2")
        federation.start_agent("device-1", workplace / "device-1.csv", aarch64)
        federation.start_agent("device-2", workplace / "device-2.csv")
        federation.server("job", "submit", str(workplace / "job.toml"))
        federation.server("job", "wait", "tiny", "--timeout", str(LONG_S // 2), timeout_s=LONG_S)
        yield federation, json.loads(federation.server("job", "show", "tiny", "--json"))


def test_both_processors_did_their_part(finished: tuple[Federation, dict[str, object]]) -> None:
    """An agent replays the ledger itself and works on no version whose θ differs from the coordinator's in a bit."""
    federation, job = finished
    assert job["state"] == "done"
    assert job["latest_evaluation"]["accuracy"] > 0.8
    assert len(job["devices"]) == 2
    assert all(device["scalars"] for device in job["devices"])
    assert "hash" not in (federation.folder / "device-1.log").read_text()


def test_the_ledgers_replay_is_the_same_to_the_bit(
    finished: tuple[Federation, dict[str, object]], aarch64: Path, tmp_path: Path
) -> None:
    federation, job = finished
    folder = federation.server_folder / "jobs" / str(job["job_id"])
    shutil.copy(folder / "bundle" / "manifest.json", tmp_path)
    shutil.copy(folder / "initial_theta.npy", tmp_path)
    (tmp_path / "header").write_bytes(federation.run_header().to_bytes())
    for number, entry in enumerate(federation.ledger()):
        (tmp_path / f"entry-{number:03}").write_bytes(entry)
    command = [aarch64 / "python", "-c", REPLAY, tmp_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["aarch64", job["theta_digest"]]
