"""``fwdllm-server job …`` against a scripted server on real mutual TLS."""

import asyncio
import os
import signal
import sys

import pytest
from server.cli.scripted import DIGEST, DONE, FAILED, STOPPED, UNFIT, running

from fwdllm_common.errors import BadInputError, UnreachableError


async def test_submit_sends_the_file_and_the_folder_it_lies_in(stage, cli, tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "news.toml").write_text("[job]\nname = 'ü'\n")
    monkeypatch.chdir(tmp_path)
    result = await cli("job", "submit", "jobs/news.toml", "--json")

    assert (result.code, result.json) == (0, {"job_id": "job-1", "same_name": []})
    [request] = stage.service.requests
    assert (request.spec_toml, request.base_folder) == ("[job]\nname = 'ü'\n", str(tmp_path / "jobs"))


async def test_submit_says_what_is_wrong_with_the_job_file(stage, cli, tmp_path):
    (tmp_path / "job.toml").write_text("wrong = 1")
    result = await cli("job", "submit", str(tmp_path / "job.toml"))

    assert (result.code, result.out) == (2, "")
    assert result.err == f"fwdllm-server: {BadInputError('job file: wrong is no known key').line}\n"


async def test_a_job_file_that_is_not_there_is_bad_input(stage, cli, tmp_path):
    result = await cli("job", "submit", str(tmp_path / "none.toml"))

    assert result.code == 2
    assert "none.toml: cannot be read" in result.err


async def test_list_shows_a_line_for_each_job(stage, cli):
    result = await cli("job", "list")

    assert result.code == 0
    heading, row = result.out.splitlines()
    assert heading.split() == ["JOB", "NAME", "STATE", "ROUNDS", "ACCURACY", "MESSAGE"]
    assert row.split() == ["job-1", "news", "running", "2/5", "50.0%"]


async def test_an_empty_list_says_what_to_do(stage, cli):
    stage.service.jobs = []
    assert "job submit FILE" in (await cli("job", "list")).out
    assert (await cli("job", "list", "--json")).json == []


async def test_show_as_json_has_every_field_with_plain_numbers(stage, cli):
    facts = (await cli("job", "show", "news", "--json")).json

    assert facts["state"] == "running"
    assert facts["directions"] == 1 << 40
    assert facts["theta_digest"] == DIGEST.hex()
    assert facts["round"]["phase"] == "collecting"
    assert facts["devices"][1]["bytes_sent"] == 234
    assert facts["message"] == ""


async def test_show_for_people(stage, cli):
    out = (await cli("job", "show", "job-1")).out

    for words in ("news", "3 collecting on 2 devices, 2 of 5 done", "64/256", "1.25 (wanted at most 0.5)"):
        assert words in out
    for words in ("accuracy 50.0%, loss 1.2500", "up 1.2 kB, down 2.5 MB, model files 45.0 MB", "1m20s so far"):
        assert words in out


async def test_an_unknown_job_is_bad_input(stage, cli):
    result = await cli("job", "show", "gone")

    assert (result.code, result.err) == (
        2,
        "fwdllm-server: " + BadInputError("no job gone; 'job list' shows all").line + "\n",
    )


async def test_watch_prints_a_line_at_every_step(stage, cli):
    stage.service.changes = [running(), running(collected=65), running(4, 0), DONE]
    result = await cli("job", "watch", "job-1")

    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "news running: round 3 collecting on 2 devices",
        "news running: round 4 collecting on 2 devices",
        "news done: rounds 5 of 5 done",
    ]


async def test_watch_as_json_prints_every_change(stage, cli):
    stage.service.changes = [running(), running(collected=65), DONE]
    result = await cli("job", "watch", "job-1", "--json")

    assert [(job["state"], job["round"]["directions_collected"]) for job in result.json_lines] == [
        ("running", 64),
        ("running", 65),
        ("done", 256),
    ]


@pytest.mark.parametrize("command", ["watch", "wait"])
@pytest.mark.parametrize(
    ("last", "code", "words"),
    [
        (DONE, 0, ""),
        (FAILED, 1, "job news failed: ten rounds in a row were abandoned"),
        (UNFIT, 2, "job news failed: [bad-input] 'm' is a model of the architecture 'xlnet', which cannot be prepared"),
        (STOPPED, 5, "job news was stopped; resume it with 'fwdllm-server job resume job-1'"),
        (running(), 3, "the server went away before job job-1 ended"),
    ],
    ids=["done", "failed", "unfit", "stopped", "went away"],
)
async def test_how_a_job_ends_is_the_exit_code(stage, cli, command, last, code, words):
    stage.service.changes = [running(), last]
    result = await cli("job", command, "job-1")

    assert result.code == code
    assert words in result.err


async def test_wait_prints_the_job_when_it_has_ended_also_badly(stage, cli):
    stage.service.changes = [running(), FAILED]
    result = await cli("job", "wait", "job-1", "--json")

    assert (result.code, result.json["state"]) == (1, "failed")


async def test_wait_gives_up_at_its_timeout(stage, cli):
    stage.service.hangs = True
    result = await cli("job", "wait", "job-1", "--timeout", "0.2")

    assert result.code == 4
    assert "job job-1 has not ended within 0.2 s (round 2 of 5)" in result.err


async def test_wait_ends_when_the_server_dies(stage, cli):
    stage.service.hangs = True
    waiting = asyncio.create_task(cli("job", "wait", "job-1"))
    await stage.service.watched.wait()
    await stage.servers.stop(None)
    result = await waiting

    assert result.code == 3
    assert "fwdllm-server serve" in result.err


@pytest.mark.parametrize("command", ["watch", "wait"])
async def test_ctrl_c_ends_with_130(stage, command):
    stage.service.hangs = True
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from fwdllm_server.cli import main; main()",
        *("job", command, "job-1"),
        env={**os.environ, "FWDLLM_SERVER_DIR": str(stage.home.folder)},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await stage.service.watched.wait()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()

    assert (process.returncode, errors) == (130, b"")


async def test_stop_and_resume_show_the_job(stage, cli):
    assert (await cli("job", "stop", "job-1", "--json")).json["state"] == "stopped"
    assert (await cli("job", "resume", "job-1", "--json")).json["state"] == "running"
    assert "news  stopped" in (await cli("job", "stop", "news")).out


async def test_pause_and_priority_show_the_job(stage, cli):
    assert (await cli("job", "pause", "job-1", "--json")).json["state"] == "paused"
    assert (await cli("job", "priority", "news", "7", "--json")).json["priority"] == 7
    assert (await cli("job", "priority", "news", "-7")).code == 0
    assert [request.priority for request in stage.service.requests[-2:]] == [7, -7]
    assert (await cli("job", "priority", "news", "1001")).code == 2


async def test_extend_asks_for_more_rounds(stage, cli):
    assert (await cli("job", "extend", "news", "--rounds", "30", "--json")).json["rounds_wanted"] == 35
    assert (await cli("job", "extend", "news", "--rounds", "0")).code == 2


@pytest.mark.parametrize("address", ["unix:operator.sock", "127.0.0.1:9"])
async def test_a_server_that_is_not_running_is_named_with_what_to_do(home, cli, monkeypatch, address):
    monkeypatch.setenv("FWDLLM_LISTEN__OPERATOR", address)
    result = await cli("job", "list")

    assert result.code == UnreachableError.exit_code == 3
    assert result.err == (
        f"fwdllm-server: error[unreachable]: no server answers at {home.operator_address(home.config())}; "
        f"start it with 'fwdllm-server serve {home.folder}' (more: explain unreachable)\n"
    )
