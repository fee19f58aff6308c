"""EnrolmentService: exchanges a join token and a certificate request for a device's certificate."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import structlog
from cryptography.hazmat.primitives import serialization

from fwdllm.v1.device_pb2 import EnrollRequest, EnrollResponse
from fwdllm.v1.device_pb2_grpc import EnrolmentServiceServicer
from fwdllm_common.errors import RefusedError
from fwdllm_common.protocol import Reason
from fwdllm_server.coordinator.runtime import Runtime
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.rpc.limits import MAX_CERTIFICATE_REQUEST_BYTES, bounded
from fwdllm_server.security.ca import CertificateAuthority
from fwdllm_server.security.requests import DeviceKey, parse_request
from fwdllm_server.security.tokens import SECRET_CHARACTERS
from fwdllm_server.store import devices
from fwdllm_server.store.devices import Device

_log = structlog.get_logger()


class EnrolmentService(EnrolmentServiceServicer):
    """Enrols devices, and sends them ``device_address``, the host:port of DeviceService."""

    def __init__(self, runtime: Runtime, authority: CertificateAuthority, device_address: str) -> None:
        self._runtime = runtime
        self._authority = authority
        self._device_address = device_address

    async def Enroll(self, request: EnrollRequest, context: grpc.aio.ServicerContext[Any, Any]) -> EnrollResponse:
        """Exchange a one-time token and a certificate request for a client certificate."""
        bounded("token_secret", request.token_secret, SECRET_CHARACTERS, SECRET_CHARACTERS)
        bounded("certificate_request", request.certificate_request, MAX_CERTIFICATE_REQUEST_BYTES)
        key = parse_request(request.certificate_request)
        now = self._runtime.clock()
        try:
            device = await self._runtime.transact(devices.enrol, request.token_secret, key.sha256, now)
        except RefusedError as error:
            reason = Reason.REVOKED if isinstance(error, devices.RevokedError) else Reason.BAD_TOKEN
            raise CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, reason, str(error)) from error
        _log.info("device enrolled", device=device.id, peer=context.peer())
        return self._certified(device, key, now)

    def _certified(self, device: Device, key: DeviceKey, now: float) -> EnrollResponse:
        certificate = self._authority.sign_device(
            key.public_key, device.id, now, self._runtime.config.certificates.device_days
        )
        return EnrollResponse(
            device_id=device.id,
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            ca_certificate=self._authority.certificate_pem,
            expires_unix_s=int(certificate.not_valid_after_utc.timestamp()),
            device_address=self._device_address,
        )
