"""A coordinator as a process of its own with a job that needs no model, and callers of every kind."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from helpers.federation import PROGRAMS, READY_S, Federation
from helpers.modelless import home_with_job
from server.rpc.loopback import authority_of, device_identity

from fwdllm.v1.operator_pb2 import CreateJoinTokenRequest, ListJobsRequest
from fwdllm_client.connection.enrol import join
from fwdllm_client.connection.home import ClientHome
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.config.home import ServerHome
from fwdllm_server.rpc.unix_socket import grpc_target
from fwdllm_server.security.ca import CertificateAuthority, KeyAndCertificate

OPTIONS = (
    ("grpc.ssl_target_name_override", "localhost"),
    ("grpc.use_local_subchannel_pool", 1),  # connections of one caller are not another's
    ("grpc.max_receive_message_length", 8 << 20),
)


_TOO_LATE = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)+grpc\._cython\.cygrpc\.ExecuteBatchError: .*\n"
)
"""What gRPC itself prints where the caller is gone before it is told that there is no such method."""


class LiveServer:
    """The process, what it logs and how much memory it has; ``devices`` have joined."""

    def __init__(self, federation: Federation, devices: tuple[str, ...]) -> None:
        self.federation = federation
        self.home = ServerHome.open(federation.server_folder)
        self.authority = authority_of(self.home)
        self.identities: dict[str, KeyAndCertificate | None] = {
            "operator": KeyAndCertificate(
                self.home.operator_key.read_bytes(), self.home.operator_certificate.read_bytes()
            ),
            "nobody": None,
            "stranger": device_identity(CertificateAuthority.create(time.time()), "dev-1"),
        }
        path = self.home.operator_socket(self.home.config())
        assert path is not None
        self.addresses = {
            "device": f"localhost:{federation.addresses['DEVICE']}",
            "enrolment": f"localhost:{federation.addresses['ENROLMENT']}",
            "operator": grpc_target(path),
        }
        self._seen = 0
        for name in devices:
            with operator_service(self.home.folder) as service:
                token = service.CreateJoinToken(CreateJoinTokenRequest(name=name)).join_token
            client = ClientHome(federation.folder / name)
            join(client, token)
            identity = client.load_identity()
            self.identities[name] = KeyAndCertificate(identity.key, identity.certificate)

    @property
    def memory(self) -> int:
        """Bytes that are resident."""
        return int(psutil.Process(self.federation.pid("server")).memory_info().rss)

    def channel(self, caller: str, plane: str) -> grpc.Channel:
        """A connection of its own, with the caller's certificate if it has one."""
        key, certificate = self.identities[caller] or (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.certificate_pem, key, certificate)
        return grpc.secure_channel(self.addresses[plane], credentials, OPTIONS)

    def log(self) -> list[str]:
        """Lines since the last call."""
        text = (self.federation.folder / "server.log").read_text()
        lines = _TOO_LATE.sub("", text).splitlines()
        new, self._seen = lines[self._seen :], len(lines)
        return new

    def complaints(self) -> list[str]:
        """Of the new lines of the log those that are errors, or were not written by a logger of ours."""
        return [line for line in self.log() if not _is_calm(line)]

    def answers(self) -> bool:
        """Whether it serves its operator now."""
        with operator_service(self.home.folder) as service:
            return bool(service.ListJobs(ListJobsRequest(), timeout=READY_S).jobs)


@contextmanager
def live_server(
    folder: Path, *devices: str, store_url: str = "", program: Path = PROGRAMS / "fwdllm-server"
) -> Iterator[LiveServer]:
    """A server that runs until the block ends."""
    with Federation(folder) as federation:
        home_with_job(federation.server_folder, store_url, count=100_000)
        federation.start("server", program, "serve", "--verbose", federation.server_folder)
        with operator_service(federation.server_folder) as service:
            service.ListJobs(ListJobsRequest(), timeout=READY_S, wait_for_ready=True)
        yield LiveServer(federation, devices)


def _is_calm(line: str) -> bool:
    try:
        return json.loads(line)["level"] in ("debug", "info", "warning")
    except (ValueError, KeyError, TypeError):
        return False
