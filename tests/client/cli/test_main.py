from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from array import array
from contextlib import closing
from importlib.metadata import version

import pytest
from grpc import StatusCode
from helpers.undemanding import ask_for_nothing

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.journal import Entry, Journal
from fwdllm_client.cli.main import run_command
from fwdllm_client.connection.home import ClientHome
from fwdllm_common.join_token import JoinToken

HOUR_MS = 3_600_000


def test_the_version(capfd):
    with pytest.raises(SystemExit) as ended:
        run_command(["--version"])
    assert (ended.value.code, capfd.readouterr().out) == (0, f"fwdllm-client {version('fwdllm')}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "no 'rnu'; did you mean 'run'?"),
        (["run", "--task", "clasification"], "no 'clasification'; did you mean 'classification'?"),
        (["jobs", "x"], "no 'x'; the choices are allow, deny"),
    ],
)
def test_what_is_not_known_names_the_nearest(arguments, words, capfd):
    assert run_command(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


def test_an_error_is_explained(capfd):
    assert run_command(["explain", "busy"]) == 0
    assert capfd.readouterr().out.startswith("# busy\n")
    assert run_command(["explain"]) == 0
    assert capfd.readouterr().out.startswith("# Errors and exit codes\n")
    assert run_command(["explain", "bsuy"]) == 2
    assert "the codes are bad-input, busy, " in capfd.readouterr().err


def test_a_shell_completes_the_commands(tmp_path, capfd):
    assert run_command(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capfd.readouterr().out)
    ask = f"source {script}; COMP_WORDS=(fwdllm-client do); COMP_CWORD=1; $(complete -p fwdllm-client | "
    ask += 'sed "s/.*-F \\([^ ]*\\) .*/\\1/"); echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "doctor\n"


def test_windows_is_named_in_one_line(capfd):
    """What the system lacks must not be what a user reads about: nothing else is imported before."""
    pretend = "import argparse, difflib, json, signal, traceback, pathlib, typing, sys; sys.platform = 'win32'; "
    done = subprocess.run(
        [sys.executable, "-c", f"{pretend} import fwdllm_client.cli.main"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fwdllm: error[failed]: Windows is not supported; use Linux or macOS")
    assert done.stderr.count("\n") == 1


@pytest.fixture(autouse=True)
def _keep_logging(monkeypatch):
    """Loggers remember the stream that they were configured with; pytest closes its own after each test."""
    monkeypatch.setattr("fwdllm_client.cli.main.configure_logging", lambda *, verbose: None)


@pytest.fixture
def home(tmp_path, coordinator):
    """A device that has joined."""
    home = ClientHome(tmp_path / "home")
    home.save_identity(coordinator.identity())
    ask_for_nothing(home.folder)
    return home


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "good,yes\nbad,no\n" * 10)
    return path


@pytest.fixture
def checked_in(coordinator):
    """Set when a device has checked in; it is then told to come back in an hour."""
    event = threading.Event()

    def on_check_in(request):
        event.set()
        return device_pb2.CheckInResponse(next=device_pb2.CheckInWindow(min_ms=HOUR_MS, max_ms=HOUR_MS))

    coordinator.on_check_in = on_check_in
    return event


@pytest.fixture
def spawn():
    started = []

    def start(*arguments):
        program = [sys.executable, "-c", "from fwdllm_client.cli.main import main; main()", *map(str, arguments)]
        started.append(subprocess.Popen(program, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_join_prints_who_the_device_is(tmp_path, new_coordinator, capsys):
    enrolment = new_coordinator(mutual=False)
    enrolment.tokens |= {"one": None, "two": None}
    home = tmp_path / "home"

    def token(secret):
        return JoinToken(enrolment.address, enrolment.authority.sha256, secret).encode()

    assert run_command(["join", token("one"), "--home", str(home)]) == 0
    assert f"joined {enrolment.address} as device-1" in capsys.readouterr().out
    assert run_command(["join", token("two"), "--home", str(home)]) == 2
    assert "--force" in capsys.readouterr().err
    assert run_command(["join", token("two"), "--home", str(home), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"device_id": "device-1", "coordinator": enrolment.address}
    assert run_command(["join", token("guess"), "--home", str(home), "--force"]) == 6


def test_run_once(home, data, checked_in, coordinator):
    assert run_command(["run", "--data", str(data), "--home", str(home.folder), "--once"]) == 0
    (request,) = coordinator.check_ins
    assert list(request.labels) == ["no", "yes"]
    assert (request.training_examples, request.validation_examples) == (18, 2)
    assert (request.protocol.major, request.generator_version) == (1, 1)
    assert request.memory_bytes > 1 << 28
    assert request.software.startswith("fwdllm/0.")
    assert " onnxruntime/1." in request.software


def test_columns_and_user_are_named(home, tmp_path, checked_in, coordinator):
    path = tmp_path / "data.jsonl"
    rows = [{"body": "x", "topic": topic, "who": who} for topic in ("a", "b", "c") for who in ("ann", "bob")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--text-column body --label-column topic --user-column who --user ann --validation-fraction 0 --once"
    assert run_command(["run", "--data", str(path), "--home", str(home.folder), *options.split()]) == 0
    (request,) = coordinator.check_ins
    assert (list(request.labels), request.training_examples, request.validation_examples) == (["a", "b", "c"], 3, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--data", "{folder}/none.csv"], 2, "none.csv: cannot read"),
        (["run", "--data", "{data}", "--label-column", "topic"], 2, "no column 'topic'"),
        (["run", "--data", "{data}", "--user", "ann"], 2, "user column"),
        (["run"], 2, "--data"),
        (["frolic"], 2, "frolic"),
    ],
)
def test_a_wrong_call_is_one_line_and_contacts_nobody(arguments, code, message, home, data, coordinator, capsys):
    filled = [argument.format(folder=data.parent, data=data) for argument in arguments]
    if "--data" in filled:
        filled += ["--home", str(home.folder)]
    assert run_command(filled) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fwdllm-client: error[bad-input]: ")
    assert message in line
    assert coordinator.check_ins == []


def test_an_unknown_label_is_explained(home, data, coordinator, refuse, capsys):
    """By a coordinator before 1.3, which refuses; the device's own job may come."""
    details = "label 'no' is not one of the job's; check --label-column"

    def on_check_in(request):
        raise refuse(StatusCode.FAILED_PRECONDITION, details, "unknown-label")

    coordinator.on_check_in = on_check_in
    assert run_command(["run", "--data", str(data), "--home", str(home.folder), "--once"]) == 0
    assert "check --label-column" in capsys.readouterr().out
    assert run_command(["status", "--home", str(home.folder)]) == 0
    assert details in capsys.readouterr().out


def test_verbose_shows_the_traceback_and_ends_alike(tmp_path, data, capsys):
    assert run_command(["run", "--data", str(data), "--home", str(tmp_path / "new"), "--verbose"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("fwdllm-client: error[bad-input]: ")


def test_run_before_join(tmp_path, data, capsys):
    assert run_command(["run", "--data", str(data), "--home", str(tmp_path / "new")]) == 2
    assert "run: fwdllm-client join TOKEN" in capsys.readouterr().err


def test_status(home, coordinator, capsys):
    with closing(Journal(home.journal)) as journal:
        journal.append(Entry("a", 0, array("f", [1, 2, 3]), None, Cost(0.0, 0.0)))
    (home.cache / "files").mkdir(parents=True)
    (home.cache / "files" / "x").write_bytes(bytes(100))
    (home.cache / "files" / "linked").hardlink_to(home.cache / "files" / "x")
    with home.lock():
        assert run_command(["status", "--home", str(home.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found.pop("conditions")) == {"charging", "battery_percent", "metered", "thermal"}
    assert found == {
        "home": str(home.folder),
        "joined": True,
        "running": True,
        "paused": False,
        "device_id": "device-1",
        "coordinator": coordinator.address,
        "certificate_expires": "2033-05-18T03:33:20+00:00",
        "holds": [],
        "jobs": {"all_but": []},
        "waits_for": None,
        "failed": [],
        "scalars_over": "8 distinct rows or more, or over all of a device with fewer",
        "max_directions": 65536,
        "min_cohort": 8,
        "labels": None,
        "last_round": None,
        "unacknowledged_scalars": 3,
        "cache_bytes": 100,
        "cache_limit_bytes": 16_000_000_000,
    }
    assert run_command(["status", "--home", str(home.folder)]) == 0
    said = capsys.readouterr().out
    assert "device-1" in said
    assert "none, free to work" in said


def test_status_before_join(tmp_path, capsys):
    assert run_command(["status", "--home", str(tmp_path / "new"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["joined"], found["device_id"], found["running"]) == (False, None, False)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_the_agent_at_once(sent, code, home, data, checked_in, spawn):
    agent = spawn("run", "--data", data, "--home", home.folder)
    assert checked_in.wait(20)
    agent.send_signal(sent)
    _, said = agent.communicate(timeout=10)
    assert agent.returncode == code
    assert "Traceback" not in said


def test_a_second_agent_in_the_same_home_is_refused(home, data, checked_in, spawn, capsys):
    spawn("run", "--data", data, "--home", home.folder)
    assert checked_in.wait(20)
    assert run_command(["run", "--data", str(data), "--home", str(home.folder)]) == 8
    assert "another agent is running" in capsys.readouterr().err


def test_an_idle_agent_has_loaded_no_engine_and_stays_small(home, data, checked_in, spawn):
    agent = spawn("run", "--data", data, "--home", home.folder)
    assert checked_in.wait(20)
    with open(f"/proc/{agent.pid}/maps") as maps:  # noqa: PTH123
        loaded = maps.read()
    for library in ("onnxruntime", "numpy", "tokenizers"):
        assert library not in loaded
    with open(f"/proc/{agent.pid}/status") as status:  # noqa: PTH123
        (resident,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS:")]
    assert resident < 56_000, f"{resident} kB"
    print(f"idle: {resident} kB")


def test_without_a_command_there_is_help(capfd):
    assert run_command([]) == 2
    assert capfd.readouterr().err.startswith("usage: fwdllm-client")
