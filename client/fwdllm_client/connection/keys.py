"""The device's key and certificate request, made by ``cryptography`` where it is installed.

Elsewhere, as on phones, :mod:`fwdllm_client.connection.keys_ecdsa` makes them (docs/security.md). The TLS in gRPC uses
the key afterwards.
"""

from __future__ import annotations

try:
    from fwdllm_client.connection.keys_cryptography import certificate_request, new_key
except ImportError:
    from fwdllm_client.connection.keys_ecdsa import certificate_request, new_key

__all__ = ["certificate_request", "new_key"]
