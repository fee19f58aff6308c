"""A device that speaks the real contract over real sockets and whose scalars are a function of the seed alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
from helpers.federation import Federation
from helpers.serving import derivative, seeds_of
from helpers.tiny_text import LABELS

from fwdllm.v1 import device_pb2
from fwdllm.v1.device_pb2_grpc import DeviceServiceStub
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE
from fwdllm_client.connection.home import ClientHome
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR

PER_MESSAGE = 7


class ScriptedDevice(threading.Thread):
    """Reports on every assignment it gets, over and over until its server answers, and tells ``acknowledged``.

    With ``ports``, it tries one of them after the other, as a device does whose coordinators share a name.
    """

    def __init__(
        self,
        home: Path,
        acknowledged: Callable[[], None],
        ports: Sequence[int] = (),
        labels: Sequence[str] = LABELS,
    ) -> None:
        super().__init__(daemon=True)
        self._labels = labels
        self._acknowledged = acknowledged
        self._stopped = threading.Event()
        identity = ClientHome(home).load_identity()
        credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
        # A server that was killed is looked for again at once.
        options: list[tuple[str, object]] = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        address = identity.device_address
        if ports:
            address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
            options.append(("grpc.default_authority", "localhost"))  # the name in the certificate
        self._channel = grpc.secure_channel(address, credentials, options)
        self._stub = DeviceServiceStub(self._channel)

    def stop(self) -> None:
        """End at the next opportunity."""
        self._stopped.set()
        self._channel.close()
        self.join(10)

    def run(self) -> None:
        """Check in and report until stopped."""
        request = device_pb2.CheckInRequest(
            protocol=device_pb2.ProtocolVersion(major=PROTOCOL_MAJOR),
            generator_version=GENERATOR_VERSION,
            labels=self._labels,
            training_examples=100,
        )
        while not self._stopped.is_set():
            try:
                answer = self._stub.CheckIn(request, timeout=30, wait_for_ready=True)
                if answer.HasField("assignment"):
                    self._report(answer.assignment)
                else:
                    self._stopped.wait(answer.next.min_ms / 1000)
            except (grpc.RpcError, ValueError):  # killed, restarting, or our own channel is closed
                continue

    def _report(self, assignment: device_pb2.Assignment) -> None:
        seeds = seeds_of(assignment)
        for first in range(0, len(seeds), PER_MESSAGE):
            message = device_pb2.ReportRequest(
                assignment_id=assignment.assignment_id,
                first_index=first,
                derivatives=[derivative(seed) for seed in seeds[first : first + PER_MESSAGE]],
                usage=device_pb2.ResourceUsage(seconds=0.5, joules=2.0),
            )
            (answer,) = self._stub.Report(iter([message]), timeout=30, wait_for_ready=True)
            self._acknowledged()
            if answer.stop:
                return


class Acknowledgements:
    """Counts acknowledged messages and lets a test wait for the n-th."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, 60)


@contextmanager
def scripted_devices(federation: Federation) -> Iterator[Acknowledgements]:
    acknowledgements = Acknowledgements()
    both = [ScriptedDevice(federation.folder / name, acknowledgements.add) for name in ("device-1", "device-2")]
    for device in both:
        device.start()
    try:
        yield acknowledgements
    finally:
        for device in both:
            device.stop()


def ledger_of_finished_run(federation: Federation) -> list[bytes]:
    """Wait until the job "tiny" is done, stop the server, and return the ledger."""
    done = federation.until("tiny", lambda job: job.state == JOB_STATE_DONE)
    federation.kill("server")
    entries = federation.ledger()
    assert len(entries) == done.rounds_committed == 6
    assert done.scalars_late == done.scalars_unusable == 0
    return entries
