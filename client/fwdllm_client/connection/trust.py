"""The authority that a new device trusts: the one whose fingerprint is in the join token, and no other."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast

from fwdllm_common.errors import BadInputError, RefusedError, UnreachableError
from fwdllm_common.join_token import JoinToken

CONNECT_TIMEOUT_S = 10.0
SET_CLOCK = "sudo timedatectl set-ntp true (on a phone: automatic date and time, in its settings)"
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python's ssl has no name."""


def pinned_authority(token: JoinToken) -> bytes:
    """Fetch the certificate (PEM) of the authority that the token names from the coordinator at the token's address.

    The connection is not verified and only certificates are read from it; the fingerprint authenticates them.

    :raises UnreachableError: nothing answers at the address, or not with TLS.
    :raises RefusedError: the coordinator at the address has another authority.
    """
    for certificate in _presented_chain(token.address):
        if sha256(certificate).hexdigest() == token.ca_sha256.lower():
            return ssl.DER_cert_to_PEM_cert(certificate).encode()
    raise RefusedError(
        f"the coordinator at {token.address} is not the one that made this token; "
        "check the address, or ask for a new token: fwdllm-server enroll --name NAME"
    )


def clock_trouble(address: str, authority: bytes, now: float) -> str:
    """Explain how this device's clock keeps it from trusting the coordinator at ``address``; return "" if it does not.

    ``now`` (seconds since 1970 UTC) is compared with the validity of the coordinator's certificate. ``authority`` (PEM)
    is trusted regardless of time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
        with _connected(address, context) as secure:
            certificate = cast(dict[str, str], secure.getpeercert())
    except (OSError, ValueError):
        return ""  # the cause is something else
    begins, ends = (ssl.cert_time_to_seconds(certificate[key]) for key in ("notBefore", "notAfter"))
    if begins <= now <= ends:
        return ""
    if now < begins:
        good, off = f"from {_moment(begins)} on", f"behind by at least {_span(begins - now)}"
    else:
        good, off = f"until {_moment(ends)}", f"ahead by at least {_span(now - ends)}"
    return (
        f"this device's clock says {_moment(now)}, and the certificate of the coordinator at {address} is good {good}: "
        f"the clock is {off}; set it: {SET_CLOCK}"
    )


def _moment(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%F %H:%M} UTC"


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _presented_chain(address: str) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _connected(address, context) as secure:
            return _unverified_chain(secure)
    except ssl.SSLError as error:
        raise UnreachableError(
            f"{address} answers, but not as a coordinator ({error.reason or error}); check the address in the token"
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"no coordinator answers at {address} ({error.strerror or error}); check that it runs and can be reached"
        ) from error


@contextmanager
def _connected(address: str, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    host, port = host_and_port(address)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        yield secure


def _unverified_chain(secure: ssl.SSLSocket) -> list[bytes]:
    if hasattr(secure, "get_unverified_chain"):  # Python 3.13
        return list(secure.get_unverified_chain())
    chain = cast(Any, secure)._sslobj.get_unverified_chain() or []
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


def host_and_port(address: str) -> tuple[str, int]:
    """Split ``host:port``; an IPv6 address is returned without its brackets.

    :raises BadInputError: the address does not have that form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInputError(f"the token's address {address!r} is not host:port; ask for a new token")
    return host.strip("[]"), int(port)
