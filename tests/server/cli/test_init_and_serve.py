import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import structlog
from server.rpc.loopback import authority_of

from fwdllm_common.errors import BadInputError, BusyError, RefusedError
from fwdllm_server.cli import run
from fwdllm_server.cli.serving import _warn_of_expiry, serve
from fwdllm_server.config.home import ServerHome
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.security.roles import Role, holder_of

# Stands for the coordinator, which loads for seconds: tells when it serves, and ends when it is asked to.
_SERVE = """
import sys, types
import fwdllm_server.cli
async def serve(home, config, stop):
    print("serving", home.folder, config.public.host, flush=True)
    await stop.wait()
fwdllm_server.cli.serving = sys.modules["fwdllm_server.cli.serving"] = types.ModuleType("fwdllm_server.cli.serving")
fwdllm_server.cli.serving.serve = serve
from fwdllm_server.cli import main
main()
"""


def start_server(folder, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE, "serve", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_init_makes_a_directory_whose_keys_are_for_its_owner(tmp_path, capfd):
    folder = tmp_path / "deep" / "server"
    assert run(["init", str(folder), "--host", "a.example", "--host", "10.0.0.1", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    home = ServerHome.open(folder)

    assert facts == {
        "folder": str(folder),
        "host": "a.example",
        "device": "a.example:7443",
        "enrolment": "a.example:7444",
        "ca_sha256": authority_of(home).fingerprint,
    }
    assert home.config().public.names == ["10.0.0.1"]
    assert holder_of(home.operator_certificate.read_bytes()).role is Role.OPERATOR
    private = (folder, home.ca_key, home.operator_key, home.config_file)
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o700, 0o600, 0o600, 0o600]
    assert home.artifacts.is_dir()
    assert home.jobs.is_dir()


def test_init_does_not_touch_a_directory_that_is_one_already(home, capfd):
    before = home.ca_key.read_bytes()

    assert run(["init", str(home.folder)]) == 2
    assert "is a server's directory already" in capfd.readouterr().err
    assert home.ca_key.read_bytes() == before


def test_init_is_told_ports_that_differ_outside(tmp_path, capfd):
    folder = tmp_path / "server"
    assert run(["init", str(folder), "--host", "name:31443"]) == 2
    assert "has a port; say it with device and enrolment" in capfd.readouterr().err
    told = ("--public-device", "name.example:31443", "--public-enrolment", "[::1]:31444")
    assert run(["init", str(folder), *told]) == 0
    assert "will join at [::1]:31444 and connect to name.example:31443" in capfd.readouterr().out
    public = ServerHome.open(folder).config().public
    assert (public.host, public.device, public.enrolment) == ("name.example", "name.example:31443", "[::1]:31444")
    assert run(["init", str(tmp_path / "other"), "--public-device", "name"]) == 2
    assert "not an address like" in capfd.readouterr().err


def test_init_refuses_a_host_that_is_none(tmp_path, capfd):
    assert run(["init", str(tmp_path / "server"), "--host", "a b"]) == 2
    assert capfd.readouterr().err.startswith("fwdllm-server: error[bad-input]: init: host is 'a b'")
    assert not (tmp_path / "server").exists()


def test_the_directory_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FWDLLM_SERVER_DIR", str(tmp_path / "server"))

    assert run(["init"]) == 0
    assert ServerHome.open(tmp_path / "server").config().public.host


def test_a_directory_that_is_none_is_bad_input(tmp_path, capfd):
    assert run(["serve", str(tmp_path)]) == 2
    assert "no server.toml" in capfd.readouterr().err
    with pytest.raises(BadInputError):
        ServerHome.open(tmp_path / "none")


def test_a_wrong_key_stops_serve_before_it_starts(home, capfd):
    home.config_file.write_text("[listen]\nopertor = 'x:1'")

    assert run(["serve", str(home.folder)]) == 2
    assert 'did you mean "operator"?' in capfd.readouterr().err


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_serve(home, asked, code):
    with start_server(home.folder, FWDLLM_PUBLIC__HOST="b.example") as server:
        assert server.stdout.readline() == f"serving {home.folder} b.example\n"
        server.send_signal(asked)
        _, errors = server.communicate()

    assert (server.returncode, errors) == (code, "")


def test_a_second_server_on_the_directory_is_refused(home, capfd):
    with start_server(home.folder) as server:
        server.stdout.readline()
        code = run(["serve", str(home.folder)])
        server.terminate()
        server.communicate()

    assert code == BusyError.exit_code == 8
    assert capfd.readouterr().err == (
        f"fwdllm-server: error[busy]: another fwdllm-server serves {home.folder} (pid {server.pid}); stop it first "
        "(more: explain busy)\n"
    )


@pytest.mark.parametrize(
    ("made_days_ago", "words"), [(3651, "no device accepts it any more; make a new server"), (-3, "set the clock")]
)
async def test_a_server_whose_authority_has_ended_does_not_serve(home, made_days_ago, words):
    made = CertificateAuthority.create(time.time() - made_days_ago * 86_400)
    made.save(home.ca_certificate, home.ca_key)
    with pytest.raises(RefusedError, match=words):
        await serve(home, home.config(), asyncio.Event())


async def test_the_log_says_that_the_authority_ends(home):
    authority = CertificateAuthority.create(time.time())
    ends = authority.certificate.not_valid_after_utc.timestamp()
    for now, event in [(ends - 30 * 86_400, "the authority of this server expires soon"), (ends, "devices refuse")]:
        with structlog.testing.capture_logs() as logs:
            telling = asyncio.create_task(_warn_of_expiry(authority, lambda now=now: now))
            await asyncio.sleep(0)
            telling.cancel()
        assert logs[0]["event"].startswith(event)


def test_a_killed_server_leaves_no_lock(home):
    with start_server(home.folder) as server:
        server.stdout.readline()
        server.kill()
        server.communicate()

    with home.lock():
        assert home.lock_file.read_text() == str(os.getpid())


def test_commands_start_without_the_training_libraries(home):
    script = "import sys, fwdllm_server.cli, fwdllm_server.rpc.grpc_server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "fwdllm_server.cli.job" in loaded
    assert {"torch", "transformers", "peft", "onnx", "onnxruntime"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jbo"], "Did you mean 'job'?"),
        (["job", "wait"], "Missing argument 'JOB'"),
        (["job", "wait", "x", "--timeout", "soon"], "--timeout"),
    ],
)
def test_wrong_usage_is_one_line(arguments, words, capfd):
    assert run(arguments) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("fwdllm-server: error[bad-input]: ")
    assert words in line


def test_the_version_and_more_about_an_error(capfd):
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"fwdllm-server {version('fwdllm')}\n"
    assert run(["explain", "busy"]) == 0
    assert capfd.readouterr().out.startswith("# busy\n")
    assert run(["explain", "bsuy"]) == 2
    assert "no error has the code 'bsuy'; the codes are bad-input, busy, " in capfd.readouterr().err


def test_a_shell_completes_the_commands():
    asked = {"_FWDLLM_SERVER_COMPLETE": "complete_bash", "COMP_WORDS": "fwdllm-server jo", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from fwdllm_server.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **asked})

    assert done.stdout == "job\n"


def test_a_command_that_needs_more_than_is_installed_says_what(home, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert run(["serve", str(home.folder)]) == 2
    assert "this command needs uvloop: pip install 'fwdllm[server]'" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["job"], ["devices"]])
def test_without_a_command_there_is_help(arguments, capfd):
    assert run(arguments) == 2
    assert capfd.readouterr().err.startswith("Usage: fwdllm-server")


@pytest.mark.parametrize("arguments", [["--help"], ["job", "--help"], ["job", "watch", "--help"]])
def test_help_is_there(arguments, capfd):
    assert run(arguments) == 0
    assert capfd.readouterr().out.startswith("Usage: fwdllm-server")
