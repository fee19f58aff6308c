"""TLS for pages that other machines request, with a certificate of the coordinator's own authority."""

from __future__ import annotations

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

from fwdllm_server.security.ca import KeyAndCertificate


def tls_context(identity: KeyAndCertificate) -> ssl.SSLContext:
    """Return a server's TLS context. The key is on disk for a moment, readable by its owner only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with TemporaryDirectory(prefix="fwdllm-") as folder:  # made with mode 0700
        path = Path(folder) / "identity.pem"
        path.write_bytes(identity.key + identity.certificate)
        context.load_cert_chain(path)
    return context
