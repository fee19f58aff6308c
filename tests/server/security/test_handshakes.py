"""Who gets through which port, on real sockets."""

import asyncio
import hashlib
import socket
import ssl
import time

import grpc
import pytest
from server.rpc.loopback import authority_of, bound, channel, device_identity, make_home

from fwdllm.v1.device_pb2 import CheckInRequest, CheckInResponse
from fwdllm.v1.device_pb2_grpc import DeviceServiceStub
from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_common.protocol import REASON_KEY
from fwdllm_server.rpc.identity import caller_of, enrolled
from fwdllm_server.security.ca import CertificateAuthority, KeyAndCertificate
from fwdllm_server.store import devices
from fwdllm_server.store.database import Database

NOW = time.time()


class Greeter:
    """Answers a check-in with who the caller is; ``database`` makes it ask whether the device has its place."""

    def __init__(self, database=None):
        self.database = database

    async def CheckIn(self, request, context):  # noqa: N802
        if self.database is None:
            return CheckInResponse(message=caller_of(context).name)
        with self.database.transaction() as connection:
            return CheckInResponse(message=enrolled(connection, caller_of(context), 0.0).name)


def add_greeter(servers, database=None):
    """On both ports and in both services, so that it is the caller that is refused and not a missing method."""
    check_in = grpc.unary_unary_rpc_method_handler(
        Greeter(database).CheckIn, CheckInRequest.FromString, CheckInResponse.SerializeToString
    )
    services = (
        grpc.method_handlers_generic_handler("fwdllm.v1.DeviceService", {"CheckIn": check_in}),
        grpc.method_handlers_generic_handler("fwdllm.v1.OperatorService", {"ListJobs": check_in}),
    )
    for server in (servers.device, servers.operator):
        server.add_generic_rpc_handlers(services)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home") / "server")


@pytest.fixture(scope="module")
def authority(home):
    return authority_of(home)


async def check_in(address, authority, identity) -> str:
    async with channel(address, authority, identity) as open_channel:
        return (await DeviceServiceStub(open_channel).CheckIn(CheckInRequest(), timeout=10)).message


async def refusal(address, authority, identity) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check_in(address, authority, identity)
    return caught.value


def reason_of(error) -> str:
    return dict(tuple(error.trailing_metadata()))[REASON_KEY]


async def test_a_device_that_we_signed_is_let_in_under_the_name_that_we_signed(home, authority):
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()

        assert await check_in(servers.addresses.device, authority, device_identity(authority, "dev-7")) == "dev-7"


async def test_devices_of_another_authority_are_refused(home, authority):
    stranger = device_identity(CertificateAuthority.create(NOW), "dev-7")
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()

        assert (await refusal(servers.addresses.device, authority, stranger)).code() is grpc.StatusCode.UNAVAILABLE


async def test_callers_without_a_certificate_are_refused(home, authority):
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()

        for address in (servers.addresses.device, servers.addresses.operator):
            assert (await refusal(address, authority, None)).code() is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_certificate_is_refused(home, authority):
    expired = device_identity(authority, "dev-7", now=NOW - 2 * 86_400, days=1)
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()

        assert (await refusal(servers.addresses.device, authority, expired)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_device_is_refused_at_the_operators_port(home, authority):
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()
        async with channel(servers.addresses.operator, authority, device_identity(authority, "operator")) as connected:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await OperatorServiceStub(connected).ListJobs(ListJobsRequest(), timeout=10)
        error = refused.value

        assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
        assert error.details().startswith('this call is for the role "fwdllm operator"')


async def test_the_operator_is_refused_at_the_devices_port(home, authority):
    operator = KeyAndCertificate(home.operator_key.read_bytes(), home.operator_certificate.read_bytes())
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()
        error = await refusal(servers.addresses.device, authority, operator)

        assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")


async def test_a_servers_certificate_opens_no_port(home, authority):
    key, chain = authority.issue_server(["localhost"], NOW)
    async with bound(home) as servers:
        add_greeter(servers)
        await servers.start()
        error = await refusal(servers.addresses.device, authority, KeyAndCertificate(key, chain))

        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)


async def test_a_device_that_never_enrolled_or_was_revoked_is_not_authenticated(home, authority, tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'fwdllm.db'}")
    with database.transaction() as connection:
        device = devices.enrol(connection, devices.create_token(connection, "pixel7", NOW + 9), "a" * 64, NOW)
    async with bound(home) as servers:
        add_greeter(servers, database)
        await servers.start()
        address, identity = servers.addresses.device, device_identity(authority, device.id)

        unknown = await refusal(address, authority, device_identity(authority, "dev-0"))
        assert (unknown.code(), reason_of(unknown)) == (grpc.StatusCode.UNAUTHENTICATED, "not-enrolled")

        async with channel(address, authority, identity) as open_channel:
            stub = DeviceServiceStub(open_channel)
            assert (await stub.CheckIn(CheckInRequest())).message == "pixel7"
            with database.transaction() as connection:
                devices.revoke(connection, device.id, NOW)
            # The connection is open still: revocation does not wait for the next handshake.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CheckIn(CheckInRequest())
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")
    database.close()


async def test_enrolment_shows_the_authority_to_those_who_know_only_its_fingerprint(home, authority):
    async with bound(home) as servers:
        await servers.start()
        host, _, port = servers.addresses.enrolment.rpartition(":")
        chain = await asyncio.to_thread(_presented_chain, host, int(port))

    assert authority.fingerprint == chain[-1]
    assert len(chain) == 2


def _presented_chain(host: str, port: int) -> list[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout=10) as plain, context.wrap_socket(plain) as secure:
        shown = secure._sslobj.get_unverified_chain()  # public from Python 3.13 on
        return [hashlib.sha256(certificate.public_bytes(2)).hexdigest() for certificate in shown]
