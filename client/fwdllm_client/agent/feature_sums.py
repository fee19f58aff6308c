"""Sending of per-class sums of features, where the device's owner allows it (DESIGN §2, invariant 1).

The journal is not needed: the features are in the engine's cache, so a restarted agent computes the same sums quickly,
and the coordinator recognises those that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import Cost
from fwdllm_client.agent.resource_usage import usage_message
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import Coordinator
from fwdllm_client.engine import ClassSum

FLOATS_PER_MESSAGE = 1 << 19
"""Most float32 values in a message, unless a single sum has more: 2 MiB, half of the message limit."""

_log = structlog.get_logger()


class FeatureSums:
    """Sends sums of features; leaves out every class of fewer than ``class_rows`` distinct rows."""

    def __init__(self, coordinator: Coordinator, retry: Retry, class_rows: int) -> None:
        self._coordinator = coordinator
        self._retry = retry
        self._class_rows = class_rows

    def send(
        self,
        assignment: device_pb2.Assignment,
        labels: Sequence[str],
        sums: Sequence[ClassSum],
        cost: Cost,
    ) -> device_pb2.CheckInWindow | None:
        """Send the allowed ``sums``, log what was sent, and return when to check in again.

        ``labels`` are the names of the classes by index; ``cost`` is that of computing the sums.

        :raises WorkGoneError: the coordinator no longer asks for them.
        :raises StopRequested: the agent is to stop.
        """
        allowed = [found for found in sums if found.distinct >= self._class_rows]
        window = None
        for request in _messages(assignment.assignment_id, allowed):
            if request.last:
                request.usage.CopyFrom(usage_message(cost, self._coordinator.traffic))
            response = self._retry.call(partial(self._coordinator.report_feature_sums, request))
            window = response.next if response.HasField("next") else window
        _log.info(
            "sent, as the owner allows, one vector for each class: the sum of the features of its rows; nothing else",
            job=assignment.job_name,
            coordinator=self._coordinator.address,
            rows_added_up={labels[found.label]: found.rows for found in allowed},
            numbers_in_a_vector=len(allowed[0].features) if allowed else 0,
            too_few_rows_to_be_sent={labels[found.label]: found.rows for found in sums if found not in allowed},
        )
        return window


def _messages(assignment_id: str, sums: Sequence[ClassSum]) -> Iterator[device_pb2.FeatureSumsRequest]:
    """Yield at least one message, even without sums, so that the coordinator does not wait for more."""
    together = max(1, FLOATS_PER_MESSAGE // len(sums[0].features)) if sums else 1
    for start in range(0, max(1, len(sums)), together):
        yield device_pb2.FeatureSumsRequest(
            assignment_id=assignment_id,
            sums=[found.to_message() for found in sums[start : start + together]],
            last=start + together >= len(sums),
        )
