import socket

import pytest

from fwdllm_common.service_manager import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_of_the_state(tmp_path, monkeypatch, abstract):
    name = f"fwdllm-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_happens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
