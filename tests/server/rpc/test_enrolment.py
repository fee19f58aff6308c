import time

import grpc
import pytest
from cryptography import x509
from server.rpc.loopback import authority_of, bound, channel, key_pem, make_home, new_key, request_for

from fwdllm.v1.device_pb2 import EnrollRequest
from fwdllm.v1.device_pb2_grpc import EnrolmentServiceStub, add_EnrolmentServiceServicer_to_server
from fwdllm_common.protocol import REASON_KEY
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rpc.enrolment_service import EnrolmentService
from fwdllm_server.security.roles import Holder, Role, holder_of
from fwdllm_server.store import devices

DAY = 86_400


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "server")


@pytest.fixture
def runtime(home, clock):
    runtime = Runtime(home, home.config(), clock)
    yield runtime
    runtime.close()


@pytest.fixture
def token(runtime, clock):
    with runtime.database.transaction() as connection:
        return devices.create_token(connection, "pixel7", clock.now + DAY)


@pytest.fixture
async def enroll(home, runtime):
    """Calls Enroll over TLS, with the authority's certificate alone."""
    authority = authority_of(home)
    async with bound(home) as servers:
        service = EnrolmentService(runtime, authority, servers.addresses.device)
        add_EnrolmentServiceServicer_to_server(service, servers.enrolment)
        await servers.start()
        async with channel(servers.addresses.enrolment, authority, None) as open_channel:
            stub = EnrolmentServiceStub(open_channel)

            async def call(secret: str, request: bytes):
                return await stub.Enroll(EnrollRequest(token_secret=secret, certificate_request=request), timeout=10)

            yield call


async def refusal(call) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), dict(tuple(error.trailing_metadata())).get(REASON_KEY, ""), error.details()


async def test_a_token_and_a_request_become_a_certificate(enroll, token, home, clock):
    key = new_key()
    answer = await enroll(token, request_for(key))
    certificate = x509.load_pem_x509_certificate(answer.certificate)

    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.ca_certificate))
    assert holder_of(answer.certificate) == Holder(Role.DEVICE, answer.device_id)
    assert certificate.public_key() == key.public_key()
    assert answer.ca_certificate == home.ca_certificate.read_bytes()
    assert answer.expires_unix_s == pytest.approx(clock.now + 90 * DAY, abs=1)
    assert answer.device_address.startswith("localhost:")
    assert key_pem(key) not in answer.SerializeToString()


async def test_a_repeated_call_gets_the_same_device(enroll, token, clock):
    key = new_key()
    first = await enroll(token, request_for(key))
    clock.now += 30 * DAY
    second = await enroll(token, request_for(key))

    assert second.device_id == first.device_id
    assert second.expires_unix_s == pytest.approx(first.expires_unix_s + 30 * DAY, abs=1)


async def test_tokens_that_are_used_expired_or_unknown_are_refused(enroll, token, runtime, clock):
    await enroll(token, request_for(new_key()))
    with runtime.database.transaction() as connection:
        late = devices.create_token(connection, "pixel8", clock.now)

    for secret, words in ((token, "used by another device"), (late, "expired"), ("x" * 43, "not known here")):
        status, reason, details = await refusal(enroll(secret, request_for(new_key())))
        assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "bad-token")
        assert words in details
        assert secret not in details


async def test_a_revoked_device_does_not_get_another_certificate(enroll, token, runtime, clock):
    key = new_key()
    answer = await enroll(token, request_for(key))
    with runtime.database.transaction() as connection:
        devices.revoke(connection, answer.device_id, clock.now)

    status, reason, details = await refusal(enroll(token, request_for(key)))
    assert (status, reason) == (grpc.StatusCode.UNAUTHENTICATED, "revoked")
    assert "revoked" in details


@pytest.mark.parametrize(
    ("secret", "request_bytes", "words"),
    [
        ("x" * 42, b"x", "token_secret has 42 characters; 43 are allowed"),
        ("x" * 43, b"", "certificate_request has 0 bytes; 1 to 4096 are allowed"),
        ("x" * 43, b"x" * 4097, "certificate_request has 4097 bytes; 1 to 4096 are allowed"),
        ("x" * 43, b"x" * 4096, "certificate_request is not a PKCS#10 request in DER"),
    ],
)
async def test_fields_out_of_bounds_are_refused(enroll, secret, request_bytes, words):
    assert await refusal(enroll(secret, request_bytes)) == (grpc.StatusCode.INVALID_ARGUMENT, "bad-field", words)


async def test_a_bad_request_does_not_use_up_the_token(enroll, token):
    await refusal(enroll(token, b"junk"))

    assert (await enroll(token, request_for(new_key()))).device_id


async def test_a_message_that_is_too_large_is_not_read(enroll):
    status, _, _ = await refusal(enroll("x" * (17 << 10), b""))

    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
