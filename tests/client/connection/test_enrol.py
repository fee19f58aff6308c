from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.connection import keys_cryptography, keys_ecdsa
from fwdllm_client.connection.enrol import join, token_of
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_client.connection.trust import clock_trouble
from fwdllm_common.errors import BadInputError, RefusedError, UnreachableError
from fwdllm_common.join_token import JoinToken
from fwdllm_common.protocol import REASON_KEY, RETRY_AFTER_KEY


@pytest.fixture
def home(tmp_path):
    return ClientHome(tmp_path / "home")


@pytest.fixture
def enrolment(new_coordinator):
    """Where devices without a certificate may call."""
    coordinator = new_coordinator(mutual=False)
    coordinator.tokens["secret"] = None
    return coordinator


@pytest.fixture
def token(enrolment):
    return JoinToken(enrolment.address, enrolment.authority.sha256, "secret")


def with_secret(token, secret):
    return JoinToken(token.address, token.ca_sha256, secret)


@pytest.mark.parametrize("made_by", [keys_cryptography, keys_ecdsa])
def test_request_is_what_other_software_expects(made_by):
    key = made_by.new_key()
    request = x509.load_der_x509_csr(made_by.certificate_request(key))
    assert request.is_signature_valid
    assert request.subject == x509.Name([])
    assert list(request.extensions) == []
    loaded = serialization.load_pem_private_key(key, None)
    assert isinstance(loaded.curve, ec.SECP256R1)
    assert request.public_key() == loaded.public_key()
    assert len(made_by.certificate_request(key)) < 4096


@pytest.mark.parametrize(("installed", "made_by"), [(True, "keys_cryptography"), (False, "keys_ecdsa")])
def test_cryptography_signs_where_it_is_installed(installed, made_by):
    hidden = "" if installed else "sys.modules['cryptography'] = None; "
    program = f"import sys; {hidden}from fwdllm_client.connection import keys; print(keys.new_key.__module__)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert said.stdout.strip() == f"fwdllm_client.connection.{made_by}"


def test_a_joined_device_may_call(home, token, coordinator):
    identity = join(home, token.encode())
    assert home.load_identity() == identity
    assert (identity.device_id, identity.enrolment_address) == ("device-1", token.address)
    with GrpcCoordinator(replace(identity, device_address=coordinator.address)) as link:
        assert link.check_in(device_pb2.CheckInRequest()) == device_pb2.CheckInResponse()


def test_the_key_is_the_owners_alone(home, token):
    join(home, token.encode())
    assert stat.S_IMODE((home.folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.folder.iterdir()) == [
        "ca.pem",
        "certificate.pem",
        "identity.json",
        "key.pem",
        "sent.sqlite",
    ]


def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_key(home, token, enrolment, monkeypatch):
    monkeypatch.setattr(ClientHome, "save_identity", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        join(home, token.encode())
    assert enrolment.tokens["secret"] is not None
    assert not home.joined
    monkeypatch.undo()
    join(home, token.encode())
    assert home.joined


def test_a_used_token_is_refused(home, token, tmp_path):
    join(home, token.encode())
    with pytest.raises(RefusedError, match=r"does not accept this token: .*used"):
        join(ClientHome(tmp_path / "other"), token.encode())


def test_a_wrong_token_is_refused_and_leaves_the_way_free(home, token):
    with pytest.raises(RefusedError, match=r"does not accept this token: unknown token"):
        join(home, with_secret(token, "guess").encode())
    assert not home.joined
    join(home, token.encode())


def test_half_a_token_is_recognised(home, token):
    with pytest.raises(BadInputError, match="not a whole join token"):
        join(home, token.encode()[:-9])


def test_joining_twice_needs_force(home, token, enrolment):
    first = join(home, token.encode())
    with pytest.raises(BadInputError, match=r"joined a coordinator already.*--force"):
        join(home, token.encode())
    enrolment.tokens["second"] = None
    second = join(home, with_secret(token, "second").encode(), force=True)
    assert second.key != first.key
    assert home.load_identity() == second


def test_a_failed_forced_join_keeps_the_old_identity(home, token):
    first = join(home, token.encode())
    with pytest.raises(RefusedError):
        join(home, with_secret(token, "guess").encode(), force=True)
    assert home.load_identity() == first


def test_another_authority_is_refused_before_the_secret_is_sent(home, token, enrolment, new_authority):
    with pytest.raises(RefusedError, match=f"{token.address} is not the one that made this token"):
        join(home, replace(token, ca_sha256=new_authority().sha256).encode())
    assert enrolment.tokens == {"secret": None}


def test_an_impostor_with_the_right_authority_in_its_chain_is_refused(home, new_coordinator, authority, new_authority):
    """Anybody can show the CA's certificate; only the coordinator has one signed by it."""
    impostor = new_authority()
    impostor.server_chain = impostor.server_chain.replace(impostor.pem, authority.pem)
    coordinator = new_coordinator(impostor, mutual=False)
    coordinator.tokens["secret"] = None
    with pytest.raises(UnreachableError, match=coordinator.address):
        join(home, JoinToken(coordinator.address, authority.sha256, "secret").encode())
    assert coordinator.tokens == {"secret": None}


def test_nobody_there(home, authority):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UnreachableError, match=f"no coordinator answers at {address}.*refused"):
        join(home, JoinToken(address, authority.sha256, "secret").encode())


def test_not_a_coordinator_at_all(home, authority):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=f"{address} answers, but not as a coordinator"):
            join(home, JoinToken(address, authority.sha256, "secret").encode())
        thread.join()


def test_a_token_without_a_port(home, authority):
    with pytest.raises(BadInputError, match="not host:port"):
        join(home, JoinToken("coordinator.example", authority.sha256, "secret").encode())


def test_a_coordinator_that_is_too_busy_can_be_asked_again(home, token, enrolment, refuse, monkeypatch):
    async def busy(request, context):
        await context.abort(StatusCode.RESOURCE_EXHAUSTED, "too many devices")

    monkeypatch.setattr(enrolment, "Enroll", busy)
    enrolment.stop()
    enrolment.start(mutual=False)
    with pytest.raises(UnreachableError, match=f"{token.address}.*too many devices"):
        join(home, token.encode())


def test_a_damaged_identity_says_what_to_do(home, token):
    join(home, token.encode())
    (home.folder / "identity.json").write_text("{")
    with pytest.raises(BadInputError, match=r"damaged.*--force"):
        home.load_identity()


def test_no_proxy_stands_between(home, token, enrolment, monkeypatch):
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert join(home, token.encode()).device_address == enrolment.address


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "host:65536", "host:x"])
def test_an_address_that_is_none_is_refused(home, token, address):
    with pytest.raises(BadInputError, match="is not host:port; ask for a new token"):
        join(home, replace(token, address=address).encode())


@pytest.mark.parametrize(("from_day", "words"), [(3, "behind by at least 2 d 23 h"), (-2, "ahead by at least 1 d 0 h")])
def test_a_clock_that_is_wrong_is_named_with_what_to_type(home, new_coordinator, new_authority, from_day, words):
    coordinator = new_coordinator(new_authority(from_day), mutual=False)
    coordinator.tokens["secret"] = None
    token = JoinToken(coordinator.address, coordinator.authority.sha256, "secret").encode()
    with pytest.raises(BadInputError) as caught:
        join(home, token)
    assert f"the clock is {words}; set it: sudo timedatectl set-ntp true" in str(caught.value)
    assert f"the certificate of the coordinator at {coordinator.address} is good" in str(caught.value)
    assert coordinator.tokens == {"secret": None}


def test_a_clock_is_not_blamed_for_another_authority(new_coordinator, new_authority, authority):
    coordinator = new_coordinator(new_authority(3))
    assert clock_trouble(coordinator.address, authority.pem, 0.0) == ""
    assert "behind by at least" in clock_trouble(coordinator.address, coordinator.authority.pem, 0.0)
    assert clock_trouble("127.0.0.1:1", authority.pem, 0.0) == ""


def test_the_program_says_one_line_and_nothing_of_grpcs(home, new_coordinator, new_authority, authority):
    """A clock that is wrong, and what answers with another certificate than it should."""
    impostor = new_authority()
    impostor.server_chain = impostor.server_chain.replace(impostor.pem, authority.pem)
    for coordinator, sha256, words in (
        (new_coordinator(late := new_authority(3), mutual=False), late.sha256, "this device's clock says"),
        (new_coordinator(impostor, mutual=False), authority.sha256, "no answer from the coordinator"),
    ):
        token = JoinToken(coordinator.address, sha256, "secret").encode()
        program = "import sys; from fwdllm_client.cli.main import main; main()"
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        done = subprocess.run(
            [sys.executable, "-c", program, "join", "-", "--home", home.folder],
            input=token,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
        assert done.returncode in (2, 3)
        assert words in done.stderr
        assert done.stderr.startswith("fwdllm-client: error[")
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_token_comes_from_the_argument_a_file_or_standard_input(tmp_path):
    printed = "Run once on phone, before 2026-12-02 10:00:\n\nfwdllm-client join fwdllm1-abc\n"
    file = tmp_path / "token"
    file.write_text(printed)
    assert token_of("fwdllm1-abc", None, str) == "fwdllm1-abc"
    assert token_of(None, file, str) == "fwdllm1-abc"
    assert token_of("-", None, lambda: printed) == "fwdllm1-abc"
    with pytest.raises(BadInputError, match="not a whole join token"):
        JoinToken.decode(token_of("-", None, lambda: ""))
    with pytest.raises(BadInputError, match="cannot be read"):
        token_of(None, tmp_path / "none", str)
    for argument, path in ((None, None), ("fwdllm1-abc", file)):
        with pytest.raises(BadInputError, match="name the join token once"):
            token_of(argument, path, str)


def test_a_busy_coordinator_is_asked_again_when_it_says(home, token, enrolment, monkeypatch):
    enroll, waits, busy = enrolment.Enroll, [], [True, True]

    async def sometimes(request, context):
        if busy:
            busy.pop()
            await context.abort(
                StatusCode.RESOURCE_EXHAUSTED, "busy", ((REASON_KEY, "busy"), (RETRY_AFTER_KEY, "1500"))
            )
        return await enroll(request, context)

    monkeypatch.setattr(enrolment, "Enroll", sometimes)
    enrolment.stop()
    enrolment.start(mutual=False)
    assert join(home, token.encode(), wait=waits.append).device_id == "device-1"
    assert waits == [1.5, 1.5]
    busy[:] = [True] * 9
    with pytest.raises(UnreachableError, match="try again"):
        join(ClientHome(home.folder / "other"), with_secret(token, "other").encode(), wait=waits.append)
    assert len(waits) == 6
