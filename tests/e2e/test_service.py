"""Both programs as systemd's services: they say when they are ready, and end when they are told to."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from helpers.federation import Federation
from helpers.tiny_text import write_rows


def test_systemd_hears_when_they_are_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Federation(tmp_path) as federation:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        federation.start_server()
        assert manager.recv(100) == b"READY=1"
        federation.join("device-1")
        federation.start_agent("device-1", write_rows(tmp_path / "rows.csv", 40, seed=1))
        assert manager.recv(100) == b"READY=1"
        assert federation.kill("device-1", signal.SIGTERM) == 0
        assert federation.kill("server", signal.SIGTERM) == 0
        assert manager.recv(100) == b"STOPPING=1"
