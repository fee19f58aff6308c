"""No secret is in a log, an error, an answer to a program or a doctor's report, on either side."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from helpers.federation import PROGRAMS
from helpers.live_server import LiveServer, live_server
from helpers.postgres import Postgres, program

from fwdllm.v1.device_pb2 import EnrollRequest
from fwdllm.v1.device_pb2_grpc import EnrolmentServiceStub
from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_client.connection.renewal import Renewal
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_common.join_token import JoinToken
from fwdllm_common.logging import configure_logging

PASSWORD = "pw-Zk4kq9vT2m"
UNUSABLE = (
    f"postgres://fwdllm:{PASSWORD}@localhost/fwdllm",  # no driver
    f"postgresql+psycopg://fwdllm:{PASSWORD}@x@localhost:port/fwdllm",  # an @ that is not quoted
    f"postgresql+psycopg://fwdllm:{PASSWORD}@127.0.0.1:9/fwdllm",  # nothing answers
)


class Record:
    """Everything that programs print, and the secrets that must not be in it."""

    def __init__(self) -> None:
        self.text = ""
        self.secrets: set[str] = set()

    def run(self, name: str, *arguments: object, secret_answer: bool = False, **environment: str) -> str:
        """A command's standard output; it and the rest goes on record, but for an answer that is secret."""
        command = [str(PROGRAMS / name), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
        )
        self.text += done.stderr + ("" if secret_answer else done.stdout)
        return done.stdout

    def keep(self, *secrets: str) -> None:
        self.secrets.update(secrets)

    def keep_keys(self, pems: Iterable[bytes]) -> None:
        for pem in pems:
            assert b"PRIVATE KEY" in pem
            self.secrets.update(line for line in pem.decode().splitlines() if not line.startswith("-----"))


def operate(record: Record, server: LiveServer, folder: Path) -> None:
    """What operators and devices do in a life, and some mistakes."""
    home = server.home.folder
    made = json.loads(
        record.run("fwdllm-server", "enroll", "--name", "two", "--dir", home, "--json", secret_answer=True)
    )
    token, device = made["join_token"], folder / "two"
    record.keep(token, JoinToken.decode(token).secret)
    record.run("fwdllm-client", "join", token, "--home", device, "--verbose")
    record.run("fwdllm-client", "join", token, "--home", folder / "again", "--verbose")
    record.run("fwdllm-client", "join", token[:-1] + "!", "--home", folder / "again", "--verbose")
    for command in ("doctor", "status", "sent"):
        record.run("fwdllm-client", command, "--home", device, "--json", "--verbose")
    for command in (("devices", "list"), ("job", "list"), ("job", "show", "tiny"), ("devices", "revoke", "two")):
        record.run("fwdllm-server", *command, "--dir", home, "--json")
    record.run("fwdllm-client", "run", "--once", "--data", "none.csv", "--home", device, "--verbose")
    record.run("fwdllm-server", "doctor", home, "--json")
    shown = json.loads(record.run("fwdllm-server", "dashboard", "--dir", home, "--json", secret_answer=True))
    record.keep(shown["token"])
    for url in (f"{shown['url']}?token={shown['token']}", f"{shown['url']}none?token={shown['token']}"):
        for host in ("localhost", "elsewhere.example"):
            record.text += fetched(url, host)


def fetched(url: str, host: str) -> str:
    """An answer's headers and page, with no redirection followed."""
    request = urllib.request.Request(url, headers={"Host": host})
    context = ssl.create_default_context()
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return f"{answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.headers}{error.read().decode()}"


def renew(record: Record, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An agent of which a third of the certificate's life is left."""
    home = ClientHome(folder / "one")
    identity = home.load_identity()
    capfd.readouterr()
    configure_logging(verbose=True)
    coordinator = GrpcCoordinator(identity)
    used: list[Identity] = []
    Renewal(home, coordinator.renew_certificate, used.append, lambda: identity_end(identity) - 3600)()
    coordinator.close()
    record.keep_keys([identity.key, used[0].key])
    shown = capfd.readouterr()
    record.text += shown.out + shown.err


def identity_end(identity: Identity) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificate(identity.certificate).not_valid_after_utc.timestamp()


def enrol_with(server: LiveServer, secret: str) -> str:
    """What a stranger hears who tries a secret."""
    with server.channel("nobody", "enrolment") as channel, pytest.raises(grpc.RpcError) as refused:
        EnrolmentServiceStub(channel).Enroll(EnrollRequest(token_secret=secret, certificate_request=b"x"), timeout=10)
    return str(refused.value)


@pytest.fixture
def store_url(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL by a URL with a password, where there is one."""
    if program("initdb") is None:
        return ""
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database().replace("//fwdllm@", f"//fwdllm:{PASSWORD}@")


def test_secrets_are_nowhere(tmp_path: Path, store_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert not store_url or PASSWORD in store_url
    record = Record()
    record.keep(PASSWORD)
    with live_server(tmp_path, "one", store_url=store_url) as server:
        operate(record, server, tmp_path)
        renew(record, tmp_path, capfd)
        record.text += enrol_with(server, "A" * 43) + enrol_with(server, "short")
        record.keep_keys([server.home.ca_key.read_bytes(), server.home.operator_key.read_bytes()])
        folder = server.home.folder
        server.federation.kill("server")
    record.run("fwdllm-server", "doctor", folder, "--json")
    for url in UNUSABLE:
        for command in (("serve", folder, "--verbose"), ("doctor", folder, "--json")):
            record.run("fwdllm-server", *command, FWDLLM_STORE__URL=url)
    log = (tmp_path / "server.log").read_text()
    everything = record.text + log

    # There is something to find secrets in, and each of the errors was met.
    for words in ("device enrolled", "certificate renewed", "device revoked"):
        assert words in log
    for words in ("[store] url: should begin", "[store] url cannot be read", "cannot be used", "join token"):
        assert words in record.text, words
    assert len(record.secrets) > 10
    assert not [secret for secret in record.secrets if secret in everything]
