"""The agent's way to its coordinator: calls, retries, the journal and the wish to stop."""

from __future__ import annotations

from dataclasses import dataclass

from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.reporter import Reporter
from fwdllm_client.connection.retry import Retry, Stop
from fwdllm_client.connection.transport import Coordinator


@dataclass(frozen=True)
class Link:
    """The ``coordinator`` to call, the ``journal`` of what is not acknowledged, and ``stop``, which ends all waits."""

    coordinator: Coordinator
    journal: Journal
    stop: Stop

    def retry(self) -> Retry:
        """Return a new series of retries of calls."""
        return Retry(self.coordinator.address, self.stop)

    def reporter(self) -> Reporter:
        """Return a reporter for what is in the journal, and for one assignment."""
        return Reporter(self.coordinator, self.journal, self.retry())
