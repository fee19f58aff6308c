"""The agent's own session, journal, reporter and retries, around scalars that are a function of their seeds."""

from __future__ import annotations

import threading
from array import array
from contextlib import closing

from helpers.serving import derivative, seeds_of
from helpers.tiny_job import LABELS

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.journal import Entry, Journal
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.reporter import Reporter
from fwdllm_client.agent.session import Session
from fwdllm_client.conditions import Gate, sensors_of_this_machine
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_client.policy.choices import ChoicesFile
from fwdllm_client.policy.permission import Permission
from fwdllm_client.policy.settings import Settings
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR

_HASTE = 0.01


class Hasty(threading.Event):
    """Waits a hundredth of the time that it is asked for."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout * _HASTE)


class JournaledDevice:
    """An agent but for its engine: ``per_message`` scalars go into the journal at a time, and on their way."""

    def __init__(self, home: ClientHome, per_message: int) -> None:
        self._home = home
        self._per_message = per_message
        self._stop = Hasty()

    def stop(self) -> None:
        """End at the next wait or message."""
        self._stop.set()

    def run(self) -> None:
        """Serve the coordinator until stopped."""
        rules = Settings.load(self._home.settings).rules
        permission = Permission(Gate(sensors_of_this_machine(), rules), rules, ChoicesFile(self._home.choices))
        profile = device_pb2.CheckInRequest(
            protocol=device_pb2.ProtocolVersion(major=PROTOCOL_MAJOR),
            generator_version=GENERATOR_VERSION,
            labels=LABELS,
            training_examples=100,
        )
        with (
            GrpcCoordinator(self._home.load_identity()) as coordinator,
            closing(Journal(self._home.journal)) as self._journal,
        ):
            link = Link(coordinator, self._journal, self._stop)

            def work(assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
                with link.reporter() as reporter:
                    self._measure(assignment, reporter)
                    reporter.finish()
                return reporter.window

            Session(link, profile, permission, work).run()

    def _measure(self, assignment: device_pb2.Assignment, reporter: Reporter) -> None:
        seeds = seeds_of(assignment)
        for first in range(self._journal.progress(assignment.assignment_id) or 0, len(seeds), self._per_message):
            if self._stop.is_set() or reporter.is_stopped(assignment.assignment_id):
                return
            derivatives = array("f", map(derivative, seeds[first : first + self._per_message]))
            reporter.submit(Entry(assignment.assignment_id, first, derivatives, None, Cost(0.001, 1.0, 2.0)))
