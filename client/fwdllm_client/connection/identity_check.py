"""Check of the device's key and certificates by a local TLS handshake, before the coordinator is called.

With damaged files the connection to a coordinator fails in the same way as if it did not answer.
"""

from __future__ import annotations

import ssl

from fwdllm_client.connection.home import ClientHome, Identity
from fwdllm_common.errors import RefusedError

_NOT_YET, _NO_MORE = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_MOST_FLIGHTS = 10


def check_identity(home: ClientHome, identity: Identity) -> None:
    """Verify the key and the certificates of ``identity``, whose files are in ``home``, as the coordinator will.

    The period of validity is not checked, because the coordinator's clock decides on it.

    :raises RefusedError: a file is damaged, or key and certificate do not belong together.
    """
    try:
        coordinator = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        device = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        device.check_hostname, device.verify_mode = False, ssl.CERT_NONE
        for context in (coordinator, device):
            context.load_cert_chain(home.certificate, home.key, password=lambda: b"")
            context.load_verify_locations(cadata=identity.ca.decode())
        if identity.renewable:  # the certificate of an operator's own authority is not available here
            coordinator.verify_mode = ssl.CERT_REQUIRED
        _shake_hands(coordinator, device)
    except (ssl.SSLError, OSError, ValueError) as error:
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in (_NOT_YET, _NO_MORE):
            return
        raise RefusedError(
            f"the key or a certificate in {home.folder} is damaged ({getattr(error, 'reason', None) or error}); "
            "ask for a new token and run: fwdllm-client join TOKEN --force"
        ) from error


def _shake_hands(coordinator: ssl.SSLContext, device: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    pending = [
        device.wrap_bio(down, up, server_side=False),
        coordinator.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(_MOST_FLIGHTS):
        for end in list(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not pending:
            return
    raise ssl.SSLError("no handshake")
