"""Who is calling: the certificate's role and name, and whether the device still has its place."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from sqlalchemy import Connection

from fwdllm_common.protocol import Reason
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.security.roles import Holder, Role, holder_of
from fwdllm_server.store import devices
from fwdllm_server.store.devices import Device

Context = grpc.aio.ServicerContext[Any, Any]


def device_id_of(context: Context) -> str:
    """The id in the calling device's certificate; says nothing about revocation."""
    return _holder(context).name


def enrolled(connection: Connection, device_id: str) -> Device:
    """The device with this id, which is enrolled and not revoked.

    :raises CallRefusedError: UNAUTHENTICATED, with reason ``not-enrolled`` or ``revoked``.
    """
    found = devices.device(connection, device_id)
    if found is None:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            Reason.NOT_ENROLLED,
            f"device {device_id} is not enrolled here; join again with a new join token",
        )
    if found.revoked:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            Reason.REVOKED,
            f'device "{found.name}" was revoked by the operator; it can come back only with a new join token and key',
        )
    return found


def require_role(context: Context, role: Role) -> None:
    """Refuse callers whose certificate was issued for another role.

    :raises CallRefusedError: PERMISSION_DENIED with reason ``not-yours``.
    """
    caller = _holder(context)
    if caller.role is not role:
        raise CallRefusedError(
            grpc.StatusCode.PERMISSION_DENIED,
            Reason.NOT_YOURS,
            f'this call is for the role "{role}", and the certificate of "{caller.name}" is for '
            f'"{caller.role or "no role of ours"}"; connect to the port for it',
        )


def _holder(context: Context) -> Holder:
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    if pem is None:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED, Reason.NOT_ENROLLED, "no certificate was shown; join first"
        )
    return holder_of(pem)
