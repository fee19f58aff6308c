"""What the command line makes of the ways in which a call ends."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from server.rpc.loopback import make_home

from fwdllm_server.cli.calls import operator_channel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_home(tmp_path / "server").folder


def test_ctrl_c_while_grpc_has_given_its_lock_away_is_ctrl_c(folder: Path) -> None:
    def wait() -> None:
        lock = threading.Lock()
        with lock:
            lock.release()  # as a condition's wait does, before the signal comes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), operator_channel(folder):
        wait()


def test_other_errors_stay_as_they_are(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), operator_channel(folder):
        raise RuntimeError("something else")
