"""kill -9 of the coordinator anywhere in a run leaves the same ledger as no kill at all (DESIGN §2, invariant 2)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from helpers.federation import Federation
from helpers.scripted_device import ScriptedDevice
from helpers.tiny_text import LABELS

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE


class Acknowledgements:
    """Counts acknowledged messages and lets a test wait for the n-th."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, 60)


@contextmanager
def devices(federation: Federation) -> Iterator[Acknowledgements]:
    acknowledgements = Acknowledgements()
    both = [ScriptedDevice(federation.folder / name, LABELS, acknowledgements.add) for name in ("device-1", "device-2")]
    for device in both:
        device.start()
    try:
        yield acknowledgements
    finally:
        for device in both:
            device.stop()


def finish(federation: Federation) -> list[bytes]:
    done = federation.until("tiny", lambda job: job.state == JOB_STATE_DONE)
    federation.kill("server")
    entries = federation.ledger()
    assert len(entries) == done.rounds_committed == 6
    assert done.scalars_late == done.scalars_unusable == 0
    return entries


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    import shutil

    folder = tmp_path_factory.mktemp("uninterrupted") / "federation"
    shutil.copytree(prepared, folder)
    with Federation(folder) as federation:
        federation.move_devices(("device-1", "device-2"))
        federation.start_server()
        with devices(federation):
            return finish(federation)


# A round of six is 23 messages, from the fourth on 27; each number is the message after which the kill comes.
@pytest.mark.parametrize("kills", [(3,), (23, 30), (11, 24, 46, 75, 100, 125)])
def test_kill_in_the_middle_of_rounds_changes_no_bit(
    federation: Federation, uninterrupted: list[bytes], kills: tuple[int, ...]
) -> None:
    federation.start_server()
    with devices(federation) as acknowledgements:
        for count in kills:
            acknowledgements.wait_for(count)
            federation.kill("server")
            federation.start_server()
        assert finish(federation) == uninterrupted
