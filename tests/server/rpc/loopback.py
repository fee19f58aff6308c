"""Servers on loopback sockets, and callers with certificates."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fwdllm_server.cli import run
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.server_config import UNIX
from fwdllm_server.rpc.grpc_server import Servers, bind_servers
from fwdllm_server.rpc.unix_socket import grpc_target
from fwdllm_server.security.ca import CertificateAuthority, KeyAndCertificate
from fwdllm_server.security.requests import parse_request


def make_home(folder: Path) -> ServerHome:
    """A new server's directory that listens on any free loopback ports."""
    assert run(["init", str(folder), "--host", "localhost", "--json"]) == 0
    home = ServerHome.open(folder)
    text = home.config_file.read_text()
    for default in ("0.0.0.0:7443", "0.0.0.0:7444", "127.0.0.1:7446", "127.0.0.1:7447"):
        text = text.replace(default, "127.0.0.1:0")
    # Tests ask again and again, without a pause.
    home.config_file.write_text(text.replace("calls_per_s = 50.0", "calls_per_s = 1e6"))
    return home


def authority_of(home: ServerHome) -> CertificateAuthority:
    return CertificateAuthority.load(home.ca_certificate, home.ca_key)


@asynccontextmanager
async def bound(home: ServerHome) -> AsyncIterator[Servers]:
    servers = await bind_servers(home, home.config(), authority_of(home))
    try:
        yield servers
    finally:
        await servers.stop(0)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request in DER; its subject asks for more than the device will get."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "operator")])
    built = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return built.public_bytes(serialization.Encoding.DER)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def device_identity(
    authority: CertificateAuthority, device_id: str, now: float | None = None, days: int = 90
) -> KeyAndCertificate:
    key = new_key()
    public_key = parse_request(request_for(key)).public_key
    certificate = authority.sign_device(public_key, device_id, time.time() if now is None else now, days)
    return KeyAndCertificate(key_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def channel(address: str, authority: CertificateAuthority, identity: KeyAndCertificate | None) -> grpc.aio.Channel:
    key, certificate = identity or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate_pem, key, certificate)
    if address.startswith(UNIX):
        named = (("grpc.ssl_target_name_override", "localhost"),)
        return grpc.aio.secure_channel(grpc_target(Path(address.removeprefix(UNIX))), credentials, named)
    return grpc.aio.secure_channel(address.replace("localhost", "127.0.0.1"), credentials)
