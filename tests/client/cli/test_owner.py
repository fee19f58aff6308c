"""The owner is in charge: what the commands say and do."""

import json
import subprocess
import sys
from contextlib import closing

import pytest

from fwdllm_client.cli.main import run_command
from fwdllm_client.cli.owner import pause, status
from fwdllm_client.conditions import Conditions
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.sent_log import MAX_LINES, SentLog
from fwdllm_common.errors import StorageError

NOON, AT = 1_795_003_200.0, "2026-11-18T12:00:00+00:00"


class Unplugged:
    def read(self):
        return Conditions(False, 55.0, False, None)


@pytest.fixture
def home(tmp_path, coordinator):
    home = ClientHome(tmp_path / "home")
    home.save_identity(coordinator.identity())
    return home


@pytest.fixture
def run(home, capsys, monkeypatch):
    """Runs a command; returns its exit code and what it printed, as JSON if it was asked for."""
    monkeypatch.setattr("fwdllm_client.cli.main.configure_logging", lambda *, verbose: None)

    def run(*arguments):
        code = run_command([*arguments, "--home", str(home.folder)])
        out = capsys.readouterr().out
        return code, json.loads(out) if "--json" in arguments and out else out

    return run


@pytest.fixture
def log(home):
    made = SentLog(home.sent, lambda: NOON)
    yield made
    made.close()


# status, pause, resume


def test_status_says_what_keeps_the_device_from_working(home):
    pause(home, paused=True)
    found = status(home, Unplugged())

    assert [hold["hold"] for hold in found["holds"]] == ["paused", "unplugged"]
    assert found["holds"][1]["why"] == "not charging"
    assert found["conditions"] == {"charging": False, "battery_percent": 55.0, "metered": False, "thermal": None}


def test_pause_and_resume_last(home, run):
    assert run("pause", "--json") == (0, {"paused": True})
    assert run("status", "--json")[1]["paused"] is True
    assert "resume" in run("pause")[1]
    assert run("resume", "--json") == (0, {"paused": False})
    assert run("status", "--json")[1]["paused"] is False


def test_status_names_the_last_round(home, run, log):
    log.add("scalars a1", "numbers", "news", 3, 12)
    assert run("status", "--json")[1]["last_round"] == {
        "job": "news",
        "round": 3,
        "at": AT,
    }


def test_wrong_settings_are_named(home, run):
    home.settings.write_text("[conditions]\nchargin = true")
    assert run("status")[0] == 2


# jobs


def test_all_jobs_until_the_owner_says_otherwise(run):
    assert run("jobs") == (0, "allowed: all\n")
    assert run("jobs", "deny", "news") == (0, "allowed: all but news\n")
    assert run("jobs", "deny", "--all") == (0, "allowed: none\n")
    assert run("jobs", "allow", "weather") == (0, "allowed: none but weather\n")
    assert run("jobs", "allow", "--all", "--json") == (0, {"allowed": {"all_but": []}, "served": []})


@pytest.mark.parametrize("arguments", [("allow",), ("deny",), ("deny", "news", "--all"), ("refuse", "news")])
def test_a_choice_needs_one_job_or_all(run, arguments):
    assert run("jobs", *arguments)[0] == 2


def test_what_no_coordinator_would_hear_of_is_refused(run):
    assert run("jobs", "deny", "x" * 65)[0] == 2
    assert run("jobs", "deny", "")[0] == 2
    for index in range(3):
        assert run("jobs", "deny", f"job {index}")[0] == 0


def test_a_pause_survives_a_choice(run):
    run("pause")
    run("jobs", "deny", "news")
    assert run("status", "--json")[1]["paused"] is True


def test_jobs_served_are_listed(run, log):
    log.add("scalars a1", "numbers", "news", 1, 12)
    log.add("scalars a2", "numbers", "news", 2, 8)
    log.add("counts a2", "counts", "news", 2, 2)
    run("jobs", "deny", "news")
    code, found = run("jobs", "--json")

    assert code == 0
    assert found["served"] == [{"job": "news", "rounds": 2, "numbers": 22, "last": AT, "allowed": False}]
    assert "news: 2 rounds, 22 numbers" in run("jobs")[1]


# sent


def test_nothing_has_been_sent(run):
    assert run("sent") == (0, "nothing has been sent\n")
    assert run("sent", "--json") == (0, [])


def test_what_was_sent_is_said_in_plain_words(run, log):
    for _ in range(3):
        log.add("scalars a1", "directional derivatives of the loss, and the resources they took", "bbc", 3, 4)
    code, said = run("sent")

    assert code == 0
    first, total = said.splitlines()
    assert first.endswith(
        " job bbc round 3: 12 numbers, directional derivatives of the loss, and the resources they took"
    )
    assert total == f"in all, job bbc: 1 round, 12 numbers, last {AT}"
    assert said.startswith("2026-11-")


def test_like_messages_share_a_line_and_old_lines_go(home, log):
    for index in range(MAX_LINES + 20):
        log.add(f"check-in {index // 2 if index < 10 else index}", "check-in")
    lines = log.lines()

    assert len(lines) == MAX_LINES
    assert sum(line.messages for line in lines) <= MAX_LINES + 10


def test_an_agent_notes_everything_that_it_sends(device, coordinator, job, new_stop, run, capsys):
    coordinator.on_check_in = lambda request: job.answer(job.assignment(evaluate=True))
    device.record = SentLog(device.home.sent)
    device.run(new_stop(last=2))
    device.record.close()
    capsys.readouterr()
    _, found = run("sent", "--json")
    words = {line["what"].split(",")[0].split(":")[0]: line for line in found}

    assert words["directional derivatives of the loss over 8 distinct rows or more"]["numbers"] == 10
    assert (
        words["directional derivatives of the loss over 8 distinct rows or more"]["job"],
        words["check-in"]["messages"],
    ) == ("quadratic", 2)
    assert words["how many of the validation rows are predicted right"]["numbers"] == 2
    assert "the hash of a file of a model" in words
    assert any(line.startswith("which version") for line in words)
    assert sum(line["messages"] for line in found if line["what"].startswith("directional")) == len(coordinator.reports)


# leave


def test_leaving_forgets_the_coordinator_and_nothing_of_the_owners(home, run, log, tmp_path):
    data = home.folder / "reviews.csv"
    data.write_text("text,label\n")
    home.settings.write_text("[conditions]\n")
    (home.cache / "files").mkdir(parents=True)
    (home.cache / "files" / "x").write_bytes(b"model")
    home.journal.write_bytes(b"")
    run("jobs", "deny", "news")
    code, said = run("leave", "--yes")

    assert code == 0
    assert "left " in said
    left = {path.name for path in home.folder.iterdir()}
    assert left - {"sent.sqlite-wal", "sent.sqlite-shm"} == {"reviews.csv", "client.toml", "sent.sqlite", "lock"}
    assert run("leave", "--yes")[0] == 2
    assert run("status", "--json")[1]["joined"] is False


def test_leaving_is_confirmed(home, run):
    assert run("leave")[0] == 2
    assert home.joined


def test_a_running_agent_is_not_left(home, run):
    with home.lock():
        assert run("leave", "--yes")[0] == 8
    assert home.joined


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("no", 1)])
def test_people_are_asked(home, run, monkeypatch, answer, code):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)

    assert run("leave")[0] == code
    assert home.joined is (code != 0)


def test_looking_loads_no_engine(home):
    program = (
        "import sys; from fwdllm_client.cli.main import run_command; "
        f"assert run_command(['status', '--home', {str(home.folder)!r}]) == 0; "
        "print({'numpy', 'onnxruntime', 'grpc'} & set(sys.modules), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stderr.strip() == "set()"


@pytest.mark.parametrize("damage", [b"not a database at all", bytes(4096)])
def test_a_damaged_log_stops_no_agent(device, coordinator, job, new_stop, damage, capsys):
    """It is kept beside the new one."""
    device.home.sent.write_bytes(b"SQLite format 3\0" + damage if damage[0] == 0 else damage)
    coordinator.on_check_in = lambda request: job.answer(job.assignment())
    with closing(SentLog(device.home.sent)) as device.record:
        device.run(new_stop(last=1))
        assert {line.job for line in device.record.lines()} == {"", "quadratic"}
    assert "a new one begins" in capsys.readouterr().out
    assert damage in device.home.sent.with_name("sent.sqlite.damaged").read_bytes()


def test_a_log_that_cannot_be_written_is_no_missing_answer(device, coordinator, job, new_stop):
    """gRPC reads what is sent in a thread of its own, and of an error there would only say that the call ended."""

    class Full(SentLog):
        def add(self, likeness, *args):
            if likeness.startswith("scalars"):
                raise StorageError("no space left")
            super().add(likeness, *args)

    coordinator.on_check_in = lambda request: job.answer(job.assignment())
    with closing(Full(device.home.sent)) as device.record, pytest.raises(StorageError, match="no space left"):
        device.run(new_stop(last=3))
    assert coordinator.reports == []
    assert len(device.unacknowledged()) > 0
