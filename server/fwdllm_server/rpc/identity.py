"""Identify callers: the role and name in the certificate, and whether the device is still enrolled."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
from sqlalchemy import Connection

from fwdllm_common.protocol import Reason
from fwdllm_server.rpc.connections import network_of
from fwdllm_server.rpc.errors import CallRefusedError
from fwdllm_server.rpc.limits import plain_name
from fwdllm_server.security.roles import OWN_PREFIX, Holder, Role, holder_of
from fwdllm_server.store import devices
from fwdllm_server.store.devices import Device

Context = grpc.aio.ServicerContext[Any, Any]

_LAST: ContextVar[tuple[Context | None, Holder | None]] = ContextVar("_LAST", default=(None, None))


def caller_of(context: Context) -> Holder:
    """Return the holder of the caller's certificate. Revocation is not checked."""
    return _holder(context)


def caller_name(context: Context) -> str:
    """Return the name in the caller's certificate, or its network if it has none."""
    return _holder(context).name if is_known(context) else network_of(context.peer())


def is_known(context: Context) -> bool:
    """Return whether the caller showed a certificate."""
    return _known(context) is not None or "x509_pem_cert" in context.auth_context()


def enrolled(connection: Connection, caller: Holder, now: float) -> Device:
    """Return the calling device. ``now`` is seconds since 1970.

    The first call enrols a device whose certificate comes from the operator's own authority. The first call with a
    renewed certificate invalidates the earlier one.

    :raises CallRefusedError: UNAUTHENTICATED, with reason ``not-enrolled`` or ``revoked``.
    """
    return _admitted(connection, caller, devices.device(connection, caller.name), now)


def refusals(connection: Connection, callers: Sequence[Holder], now: float) -> list[CallRefusedError | None]:
    """Apply :func:`enrolled` to many callers. Return for each, in order, its refusal or None."""
    found = dict(devices.by_id(connection, {caller.name for caller in callers}))
    refused: list[CallRefusedError | None] = []
    for caller in callers:
        try:
            found[caller.name] = _admitted(connection, caller, found.get(caller.name), now)
        except CallRefusedError as error:
            refused.append(error)
        else:
            refused.append(None)
    return refused


def _admitted(connection: Connection, caller: Holder, found: Device | None, now: float) -> Device:
    """Return the caller's device. ``found`` is its record in the store, or None."""
    if found is None and caller.is_own:
        name = caller.name.removeprefix(OWN_PREFIX)
        plain_name("common name of the certificate", caller.name)
        found = devices.add(connection, caller.name, name, caller.name, now)
    if found is None:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            Reason.NOT_ENROLLED,
            f"device {caller.name} is not enrolled here; join again with a new join token",
        )
    if found.revoked:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            Reason.REVOKED,
            f'device "{found.name}" was revoked by the operator; it can come back only with a new join token and key',
        )
    if caller.issued_at < found.certificates_from:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED,
            Reason.NOT_ENROLLED,
            f'this certificate of "{found.name}" was replaced by a newer one, which is in use; use that',
        )
    if caller.issued_at > found.certificates_from:
        devices.showed_certificate(connection, found.id, caller.issued_at)
        return replace(found, certificates_from=caller.issued_at)
    return found


def require_role(context: Context, role: Role) -> None:
    """Refuse a caller whose certificate was issued for another role.

    :raises CallRefusedError: PERMISSION_DENIED, with reason ``not-yours``.
    """
    caller = _holder(context)
    if caller.role is not role:
        raise CallRefusedError(
            grpc.StatusCode.PERMISSION_DENIED,
            Reason.NOT_YOURS,
            f'this call is for the role "{role}", and the certificate of "{caller.name}" is for '
            f'"{caller.role or "no role of ours"}"; connect to the port for it',
        )


def _known(context: Context) -> Holder | None:
    """Return the holder that this call's task has cached: gRPC copies the certificate at every request of it."""
    call, holder = _LAST.get()
    return holder if call is context else None


def _holder(context: Context) -> Holder:
    if known := _known(context):
        return known
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), None)
    if pem is None:
        raise CallRefusedError(
            grpc.StatusCode.UNAUTHENTICATED, Reason.NOT_ENROLLED, "no certificate was shown; join first"
        )
    holder = holder_of(pem)
    _LAST.set((context, holder))
    return holder
