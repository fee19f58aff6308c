"""The device's key and the request for a certificate, by ``cryptography`` where it is installed.

Elsewhere, as on phones, by :mod:`fwdllm_client.connection.keys_ecdsa` (docs/security.md). Later gRPC's own TLS uses
the key.
"""

from __future__ import annotations

try:
    from fwdllm_client.connection.keys_cryptography import certificate_request, new_key
except ImportError:
    from fwdllm_client.connection.keys_ecdsa import certificate_request, new_key

__all__ = ["certificate_request", "new_key"]
