"""Whom a new device trusts: the authority whose fingerprint is in the join token, and nobody else."""

from __future__ import annotations

import socket
import ssl
from hashlib import sha256
from typing import Any, cast

from fwdllm_common.errors import BadInputError, RefusedError, UnreachableError
from fwdllm_common.join_token import JoinToken

CONNECT_TIMEOUT_S = 10.0


def pinned_authority(token: JoinToken) -> bytes:
    """The PEM certificate of the authority that the token names, as the coordinator at its address presents it.

    The connection is not verified and nothing but certificates is read from it: the fingerprint is the proof.

    :raises UnreachableError: nothing answers there, or not with TLS.
    :raises RefusedError: the coordinator there has another authority.
    """
    for certificate in _presented_chain(token.address):
        if sha256(certificate).hexdigest() == token.ca_sha256.lower():
            return ssl.DER_cert_to_PEM_cert(certificate).encode()
    raise RefusedError(
        f"the coordinator at {token.address} is not the one that made this token; "
        "check the address, or ask for a new token: fwdllm-server enroll --name NAME"
    )


def _presented_chain(address: str) -> list[bytes]:
    host, port = host_and_port(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _unverified_chain(secure)
    except ssl.SSLError as error:
        raise UnreachableError(
            f"{address} answers, but not as a coordinator ({error.reason or error}); check the address in the token"
        ) from error
    except OSError as error:
        raise UnreachableError(
            f"no coordinator answers at {address} ({error.strerror or error}); check that it runs and can be reached"
        ) from error


def _unverified_chain(secure: ssl.SSLSocket) -> list[bytes]:
    if hasattr(secure, "get_unverified_chain"):  # Python 3.13
        return list(secure.get_unverified_chain())
    chain = cast(Any, secure)._sslobj.get_unverified_chain() or []
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


def host_and_port(address: str) -> tuple[str, int]:
    """Both parts of ``host:port``, an IPv6 address without its brackets.

    :raises BadInputError: it is not of that form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInputError(f"the token's address {address!r} is not host:port; ask for a new token")
    return host.strip("[]"), int(port)
