"""Report of a bundle's known-answer test, sent before the first work on the bundle (DESIGN §4)."""

from __future__ import annotations

from functools import partial

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import Coordinator

_log = structlog.get_logger()


class KnownAnswerReport:
    """Sends the result for each bundle; the coordinator decides whether it suffices."""

    def __init__(self, coordinator: Coordinator, retry: Retry) -> None:
        self._coordinator = coordinator
        self._retry = retry

    def send(self, assignment: device_pb2.Assignment, signal_to_noise: float) -> device_pb2.SelfTestResponse:
        """Send the signal-to-noise ratio for the assignment's bundle; the response says whether to continue.

        :raises WorkGoneError: the coordinator no longer knows the assignment.
        :raises StopRequested: the agent is to stop.
        """
        request = device_pb2.SelfTestRequest(assignment_id=assignment.assignment_id, signal_to_noise=signal_to_noise)
        response = self._retry.call(partial(self._coordinator.report_self_test, request))
        if response.usable:
            _log.info("known-answer test passed", job=assignment.job_name, signal_to_noise=round(signal_to_noise, 2))
        else:
            _log.warning(
                "known-answer test failed: this device's scalars are mostly rounding noise and the coordinator refuses "
                "them; try another version of onnxruntime or another execution provider",
                job=assignment.job_name,
                signal_to_noise=round(signal_to_noise, 2),
            )
        return response
