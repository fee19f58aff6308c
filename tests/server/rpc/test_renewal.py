"""Certificates: renewed by the agent itself, and from an authority of the operator's own."""

from __future__ import annotations

import asyncio
import datetime
import time

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.serving import Clock, ScriptedDevice, refusal, serving
from server.rpc.loopback import key_pem, make_home, new_key, request_for

from fwdllm.v1 import device_pb2_grpc
from fwdllm.v1.device_pb2 import RenewCertificateRequest
from fwdllm.v1.operator_pb2 import ListDevicesRequest, RevokeDeviceRequest
from fwdllm_client.connection.renewal import Renewal
from fwdllm_client.connection.transport import GrpcCoordinator

PEM = serialization.Encoding.PEM
DAY = 86_400


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def server(tmp_path, clock):
    """Without a job, and a device that has joined."""
    async with serving(make_home(tmp_path / "server"), clock) as running:
        await running.join("one")
        yield running


@pytest.fixture
async def device(server):
    return await server.device("one")


class Moment:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def renewed(server, device, clock) -> ScriptedDevice:
    """The same device with a new key and certificate, which is younger than the old one."""
    clock.now += 10
    key = new_key()
    request = RenewCertificateRequest(certificate_request=request_for(key))
    answer = await device.service.RenewCertificate(request, timeout=10)
    opened = await server.channel(server.device_address, key_pem(key), answer.certificate)
    return ScriptedDevice(device.id, device_pb2_grpc.DeviceServiceStub(opened))


async def test_the_old_certificate_is_good_until_the_new_one_is_shown(server, device, clock):
    newer = await renewed(server, device, clock)
    assert (await device.check_in()).HasField("next")
    assert (await newer.check_in()).HasField("next")
    status, reason, words = await refusal(device.check_in())

    assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "not-enrolled")
    assert "replaced by a newer one" in words
    assert (await newer.check_in()).HasField("next")


async def test_a_renewal_whose_answer_was_lost_is_asked_for_again(server, device, clock):
    await renewed(server, device, clock)
    newest = await renewed(server, device, clock)

    assert (await newest.check_in()).HasField("next")


async def test_a_revoked_device_renews_nothing(server, device, clock):
    await server.operator.RevokeDevice(RevokeDeviceRequest(device=device.id))
    request = RenewCertificateRequest(certificate_request=request_for(new_key()))

    assert (await refusal(device.service.RenewCertificate(request, timeout=10)))[1] == "revoked"


@pytest.mark.parametrize("request_bytes", [b"", b"x" * 100, b"x" * 5000])
async def test_what_is_no_request_is_refused(device, request_bytes):
    request = RenewCertificateRequest(certificate_request=request_bytes)

    assert (await refusal(device.service.RenewCertificate(request, timeout=10)))[:2] == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "bad-field",
    )


async def test_an_agent_renews_when_a_third_of_the_life_is_left(server, clock):
    home = server.client_home("one")
    old = home.load_identity()
    moment = Moment(time.time())

    def turn() -> None:
        renewal()

    with GrpcCoordinator(old.__class__(**{**vars(old), "device_address": server.device_address})) as coordinator:
        renewal = Renewal(home, coordinator.renew_certificate, lambda identity: None, moment)
        moment.now += 59 * DAY
        await asyncio.to_thread(turn)
        assert home.load_identity() == old
        moment.now += 2 * DAY
        await asyncio.to_thread(turn)
    new = home.load_identity()

    assert new.key != old.key
    assert new.certificate != old.certificate
    assert new.expires_unix_s == pytest.approx(clock.now + 90 * DAY, abs=5)
    assert (home.folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (await (await server.device("one")).check_in()).HasField("next")


# an authority of the operator's own


def own_authority(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signed("Example Devices", "Example Devices", key.public_key(), key, ca=True)
    (folder / "own-ca.pem").write_bytes(certificate.public_bytes(PEM))
    return key


def signed(subject, issuer, public_key, key, *, ca=False, organisation="Example"):
    def name(common):
        return x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation if common != issuer else "Example"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
            ]
        )

    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    builder = x509.CertificateBuilder(
        name(issuer), name(subject), public_key, x509.random_serial_number(), now, now + datetime.timedelta(days=1)
    )
    return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )


async def test_devices_may_have_certificates_of_an_own_authority_and_be_no_more_than_devices(tmp_path, monkeypatch):
    home = make_home(tmp_path / "server")
    authority = own_authority(home.folder)
    monkeypatch.setenv("FWDLLM_CERTIFICATES__DEVICE_CA", "own-ca.pem")
    key = new_key()
    claims_more = signed(
        "scanner-7", "Example Devices", key.public_key(), authority, organisation="fwdllm operator"
    ).public_bytes(PEM)
    async with serving(home) as server:
        opened = await server.channel(server.device_address, key_pem(key), claims_more)
        device = ScriptedDevice("own-scanner-7", device_pb2_grpc.DeviceServiceStub(opened))
        assert (await device.check_in()).HasField("next")
        known = {
            found.device_id: found.name for found in (await server.operator.ListDevices(ListDevicesRequest())).devices
        }
        assert known["own-scanner-7"] == "scanner-7"
        request = RenewCertificateRequest(certificate_request=request_for(new_key()))
        assert (await refusal(device.service.RenewCertificate(request, timeout=10)))[1] == "wrong-state"

        await server.operator.RevokeDevice(RevokeDeviceRequest(device="scanner-7"))
        assert (await refusal(device.check_in()))[1] == "revoked"


async def test_without_it_such_a_certificate_does_not_get_through_the_handshake(server):
    authority = own_authority(server.home.folder)
    key = new_key()
    certificate = signed("scanner-7", "Example Devices", key.public_key(), authority).public_bytes(PEM)
    opened = await server.channel(server.device_address, key_pem(key), certificate)
    device = ScriptedDevice("own-scanner-7", device_pb2_grpc.DeviceServiceStub(opened))

    assert (await refusal(device.check_in()))[0] is grpc.StatusCode.UNAVAILABLE
