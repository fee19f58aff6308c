"""``fwdllm-server doctor`` on a directory that is well, and on one after another that is not."""

from __future__ import annotations

import socket
import time

import pytest

from fwdllm_common.doctor import Verdict, examine
from fwdllm_server.cli import doctor_checks as doctor
from fwdllm_server.cli import run
from fwdllm_server.cli.doctor_checks import checks
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.store import database
from fwdllm_server.store.database import Database

YEAR_S = 365 * 86_400


@pytest.fixture
def one(home):
    """One check's verdict, by its name."""

    def check(name: str, clock=time.time) -> Verdict:
        return dict(examine({name: checks(home, clock)[name]}))[name]

    return check


async def test_all_is_well_beside_a_running_server(stage, cli, home, capfd):
    import asyncio
    import json

    with home.lock():
        code = await asyncio.to_thread(run, ["doctor", str(home.folder), "--json"])
    found = {fact["check"]: fact for fact in json.loads(capfd.readouterr().out)}
    assert code == 0
    assert found["ports"]["found"] == "the server runs and answers its operator: 1 jobs"
    assert {name for name, fact in found.items() if fact["state"] == "failed"} == set()
    assert "onnxruntime 1." in found["software"]["found"]


def test_no_directory_is_bad_input(tmp_path, capfd):
    assert run(["doctor", str(tmp_path)]) == 2
    assert "fwdllm-server init" in capfd.readouterr().err


def test_a_server_that_does_not_run_needs_free_ports(home, one, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("FWDLLM_LISTEN__DEVICE", f"127.0.0.1:{taken.getsockname()[1]}")
        verdict = one("ports")
    assert (verdict.state, verdict.next) == ("failed", "more: explain busy")
    assert "[listen] device: port" in verdict.found


def test_a_server_that_hangs_is_noticed(home, one, monkeypatch):
    monkeypatch.setenv("FWDLLM_LISTEN__OPERATOR", "127.0.0.1:9")
    with home.lock():
        verdict = one("ports")
    assert (verdict.state, "no server answers" in verdict.found) == ("failed", True)


@pytest.mark.parametrize(
    ("years", "state", "words"),
    [(0, "ok", "valid until"), (9.9, "warning", "plan"), (11, "failed", "init"), (-1, "failed", "set the clock")],
)
def test_certificates_and_clock(one, years, state, words):
    verdict = one("certificates", lambda: time.time() + years * YEAR_S)
    assert verdict.state == state
    assert words in f"{verdict.found} {verdict.next}"


def test_an_operator_of_another_authority(home, one):
    other = CertificateAuthority.create(time.time()).issue_operator(time.time())
    home.operator_certificate.write_bytes(other.certificate)
    assert "another authority issued" in one("certificates").found


def test_keys_that_others_can_read(home, one):
    home.ca_key.chmod(0o644)
    verdict = one("directory")
    assert (verdict.state, verdict.next) == ("failed", f"chmod 600 {home.ca_key}")


@pytest.mark.parametrize("name", ["server.toml", "fwdllm.db", "dashboard.token"])
def test_what_may_hold_a_secret_and_can_be_read_by_others(home, one, name):
    Database(home.database_url(home.config())).close()
    home.dashboard_token()
    assert one("directory").state == "ok"
    (home.folder / name).chmod(0o644)
    verdict = one("directory")
    assert (verdict.state, verdict.next) == ("warning", f"chmod 600 {home.folder / name}")


def test_the_store(home, one, monkeypatch):
    assert "created at the first start" in one("store").found
    Database(home.database_url(home.config())).close()
    assert one("store").state == "ok"
    monkeypatch.setattr(database.ScriptDirectory, "get_current_head", lambda self: "9999")
    assert one("store").next == "back up first: copy the database and the directory"
    home.database.write_bytes(b"no database" * 1000)
    assert one("store").state == "failed"


def test_a_name_that_devices_cannot_resolve(one, monkeypatch):
    monkeypatch.setenv("FWDLLM_PUBLIC__HOST", "nowhere.invalid")
    assert "does not resolve here" in one("public names").found
    monkeypatch.setenv("FWDLLM_PUBLIC__HOST", "127.0.0.1")
    assert "only devices on this machine can connect" in one("public names").found
    monkeypatch.setenv("FWDLLM_PUBLIC__HOST", "10.9.8.7")
    assert one("public names").state == "ok"


def test_public_addresses_are_looked_at_instead_of_the_host(one, monkeypatch):
    monkeypatch.setenv("FWDLLM_PUBLIC__HOST", "nowhere.invalid")
    monkeypatch.setenv("FWDLLM_PUBLIC__DEVICE", "10.9.8.7:31443")
    assert "does not resolve here" in one("public names").found, "it is told for joining"
    monkeypatch.setenv("FWDLLM_PUBLIC__ENROLMENT", "10.9.8.6:31444")
    assert one("public names").found == (
        "devices join at 10.9.8.6:31444 and connect to 10.9.8.7:31443; 10.9.8.6 is 10.9.8.6; 10.9.8.7 is 10.9.8.7"
    )


@pytest.mark.parametrize(("descriptors", "state", "words"), [(1024, "warning", "nofile"), (65_536, "ok", "49,056")])
def test_file_descriptors(one, monkeypatch, descriptors, state, words):
    monkeypatch.setattr(doctor, "raise_descriptor_limit", lambda: descriptors)
    verdict = one("file descriptors")
    assert verdict.state == state
    assert words in f"{verdict.found} {verdict.next}"


async def test_a_job_that_waits_for_long_is_a_warning(stage, cli, home, capfd):
    import asyncio
    import json

    stage.service.jobs[0].message = "waiting for devices: 2 of 3 are here"
    with home.lock():
        code = await asyncio.to_thread(run, ["doctor", str(home.folder), "--json"])
    found = {fact["check"]: fact for fact in json.loads(capfd.readouterr().out)}
    assert code == 0
    assert (found["jobs"]["state"], found["jobs"]["found"]) == ("warning", "news: waiting for devices: 2 of 3 are here")
