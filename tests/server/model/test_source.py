"""A model that does not exist is told at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.source import check_source

_CHECK = """
import sys
from fwdllm_common.errors import BadInputError
from fwdllm_server.model.source import check_source
try:
    check_source(sys.argv[1])
except BadInputError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Knows one model, and answers as the hub does."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = self.path.startswith("/api/models/known/model")
        body = json.dumps(
            {"id": "known/model", "siblings": []} if known else {"error": "Repository not found"}
        ).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def check(source: str, home: Path, port: int) -> str:
    """In a process of its own: the hub's address is read when its library is loaded."""
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", _CHECK, source]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_what_the_hub_has_is_taken_and_what_it_has_not_is_refused(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert check("known/model", tmp_path, hub.server_port) == ""
    said = check("known/modle", tmp_path, hub.server_port)

    assert said.startswith("[model] source: there is no folder known/modle, and no such model on the hub; check the sp")
    assert len(Hub.asked) == 2, "each is asked once"


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    said = check("known/model", tmp_path, 9)

    assert "the hub does not answer" in said
    assert said.count("\n") == 1


def test_what_was_downloaded_before_needs_no_hub(tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "models--known--model"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "snapshots" / "abc" / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")

    assert check("known/model", tmp_path, 9) == ""


@pytest.mark.parametrize("source", ["./model", "models/bert/base", "/srv/model", "model.gguf/"])
def test_a_path_that_is_not_there_asks_nobody(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="a path starts from the job file's folder"):
        check_source(source)


def test_a_folder_is_taken(tmp_path: Path) -> None:
    check_source(str(tmp_path))
