"""The documents' own commands, each run to its end in a small world: a served directory, devices, jobs and rows."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from io import StringIO
from itertools import count
from pathlib import Path

import pytest
from helpers.documented import Command, commands, exception
from helpers.federation import PROGRAMS, Federation, free_ports
from helpers.tiny_questions import write_questions
from helpers.tiny_tasks import pair_rows, value_rows
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from helpers.undemanding import ask_for_nothing

from fwdllm.v1.operator_pb2 import JOB_STATE_RUNNING, ListJobsRequest
from fwdllm_client.cli.main import run_command as run_client
from fwdllm_server.cli import run as run_server
from fwdllm_server.cli.calls import operator_service

FINISHED, WAITING = "reviews", "waiting"
NAMES = {"NAME": FINISHED, "JOB": WAITING, "DIR": "another"}
"""What the documents call a thing of the reader's own, and what it is called here."""


def own_commands() -> list[Command]:
    """Those of our two programs, each text once."""
    found: dict[str, Command] = {}
    for command in commands():
        if command.is_ours and not exception(command):
            found.setdefault(" ".join(command.words), command)
    return list(found.values())


def job(name: str, devices: int) -> str:
    return f"""
[job]
name = "{name}"
[model]
source = "model"
labels = {list(LABELS)}
max_tokens = 16
pooling = "mean"
[peft]
rank = 2
layers = [-1]
[held_out]
file = "held_out.csv"
[rounds]
count = 1
min_devices = {devices}
max_devices = 1000
[blocks.head]
directions = 20
batch_size = 16
learning_rate = 0.1
"""


class World:
    """A coordinator with a finished job, and all that readers have: a model, rows, a job file."""

    def __init__(self, federation: Federation) -> None:
        self.folder = federation.folder
        self.numbers = count(1)
        self._federation = federation

    def prepare(self) -> None:
        save_tiny_model(self.folder / "model")
        self._write_rows()
        federation = self._federation
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        federation.start_server()
        federation.join("worker")
        self._submit(FINISHED, 1)
        (self.folder / "job.toml").write_text(job("new", 1))
        federation.start_agent("worker", self.folder / "reviews.csv")
        federation.server("job", "wait", FINISHED, "--timeout", "100")
        federation.kill("worker", signal.SIGTERM)

    @cache  # noqa: B019 - one world
    def begin_waiting(self) -> None:
        """Have a job that waits for ever; without one, a device may be for any task."""
        self._submit(WAITING, 1000)
        self._federation.until(WAITING, lambda found: found.state == JOB_STATE_RUNNING and found.HasField("round"))

    def _submit(self, name: str, devices: int) -> None:
        file = self.folder / f"{name}.toml"
        file.write_text(job(name, devices))
        self._federation.server("job", "submit", str(file))

    def _write_rows(self) -> None:
        write_rows(self.folder / "held_out.csv", 40, seed=0)
        heading, *lines = write_rows(self.folder / "reviews.csv", 60, seed=1).read_text().splitlines()
        users = [f"{line},{user}" for line, user in zip(lines, ["ann", "user-7"] * 30, strict=True)]
        (self.folder / "reviews.csv").write_text("\n".join([f"{heading},user", *users]))
        (self.folder / "tickets.csv").write_text("\n".join(["body,topic", *lines]))
        rows = [dict(zip(("body", "stars"), line.split(","), strict=True)) for line in lines]
        (self.folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
        write_questions(self.folder / "manual.jsonl", 40, seed=0)
        turns = [{"role": "user", "content": "the old moon"}, {"role": "assistant", "content": "dark night"}]
        (self.folder / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
        for name, kind in (("pairs", pair_rows), ("similar", value_rows)):
            rows = kind(8, seed=0)
            (self.folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (self.folder / "topics.csv").write_text("text,toxic,insult,threat\nthe old moon,0,1,1\na dark night,0,0,0\n")
        (self.folder / "notes.conll").write_text("ann B-PER\nwalks O\n\nin O\nrome B-LOC\n")

    def visit(self, folder: Path) -> None:
        """Let a reader's folder have everything in it."""
        for found in self.folder.iterdir():
            (folder / found.name).symlink_to(found)

    def token(self, name: str) -> str:
        answer = self._federation.server("enroll", "--name", name, "--json")
        return str(json.loads(answer)["join_token"])

    def join(self, name: str) -> None:
        """The device whose home the environment names."""
        assert run_client(["join", self.token(name)]) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Federation(tmp_path_factory.mktemp("world")) as federation:
        federation.server_folder = federation.folder / "fwdllm-server"
        made = World(federation)
        made.prepare()
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader types; the home of the device is beside it."""
    home = tmp_path / "home"
    ask_for_nothing(home)
    monkeypatch.setenv("FWDLLM_HOME", str(home))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", own_commands(), ids=str)
def test_it_runs(
    command: Command,
    world: World,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = f"device-{next(world.numbers)}"
    program, *arguments = command.words
    arguments = [NAMES.get(word, word) for word in arguments]
    match (program, *arguments):
        case ("fwdllm-server", "init", *_):
            assert run_server(arguments) == 0
        case ("fwdllm-server", "serve", *_):
            assert serves_until_told(folder, arguments, monkeypatch)
        case ("fwdllm-server", "top", *_):
            world.visit(folder)
            assert said_until_interrupted(arguments).startswith("2 jobs (")
        case ("fwdllm-server", "job", "submit", _):
            world.visit(folder)
            assert run_server(arguments) == 0
            assert run_server(["job", "stop", "new"]) == 0
        case ("fwdllm-server", "job", _, name, *_) if name == WAITING:
            world.begin_waiting()
            world.visit(folder)
            assert run_server(arguments) == 0
        case ("fwdllm-server", "devices", "revoke", name):
            world.visit(folder)
            world.join(name)
            assert run_server(arguments) == 0
        case ("fwdllm-server", *_):
            world.visit(folder)
            assert run_server(arguments) == 0
        case ("fwdllm-client", "join", "-"):
            monkeypatch.setattr("sys.stdin", StringIO(world.token(device)))
            assert run_client(arguments) == 0
        case ("fwdllm-client", "join", "--token-file", name):
            (folder / name).write_text(world.token(device))
            assert run_client(arguments) == 0
        case ("fwdllm-client", "join", _):
            assert run_client(["join", world.token(device)]) == 0
        case ("fwdllm-client", "run", *_):
            world.visit(folder)
            world.join(device)
            once = [PROGRAMS / program, *arguments, "--once", "--threads", "1"]
            assert subprocess.run(once, check=False, timeout=120).returncode == 0
        case _:
            world.join(device)
            assert run_client(arguments) == 0
    assert "".join(capfd.readouterr()) or arguments[0] == "top"


def serves_until_told(folder: Path, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the coordinator answers, and ends well when it is asked to."""
    for name, port in zip(("DEVICE", "ENROLMENT", "OPERATOR", "DASHBOARD", "METRICS"), free_ports(5), strict=True):
        monkeypatch.setenv(f"FWDLLM_LISTEN__{name}", f"127.0.0.1:{port}")
    assert run_server(["init"]) == 0
    with subprocess.Popen([PROGRAMS / "fwdllm-server", *arguments]) as process:
        try:
            with operator_service(folder / "fwdllm-server") as service:
                service.ListJobs(ListJobsRequest(), timeout=60, wait_for_ready=True)
            process.send_signal(signal.SIGTERM)
            return process.wait(60) == 0
        finally:
            process.kill()


def said_until_interrupted(arguments: Sequence[str]) -> str:
    """The first line that a command that goes on for ever says; Ctrl-C ends it."""
    with subprocess.Popen([PROGRAMS / "fwdllm-server", *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        return line
