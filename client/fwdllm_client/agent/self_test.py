"""Before its first work on a bundle a device tells the coordinator how good its scalars are (DESIGN §4)."""

from __future__ import annotations

from functools import partial

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import Coordinator

_log = structlog.get_logger()


class SelfTest:
    """Sends the outcome for one bundle after another; which is good enough, the coordinator decides."""

    def __init__(self, coordinator: Coordinator, retry: Retry) -> None:
        self._coordinator = coordinator
        self._retry = retry

    def send(self, assignment: device_pb2.Assignment, signal_to_noise: float) -> device_pb2.SelfTestResponse:
        """Tell the outcome for the assignment's bundle; the answer says whether to go on.

        :raises WorkGoneError: the coordinator does not know the assignment any more.
        :raises StopRequested: the agent is to stop.
        """
        request = device_pb2.SelfTestRequest(assignment_id=assignment.assignment_id, signal_to_noise=signal_to_noise)
        response = self._retry.call(partial(self._coordinator.report_self_test, request))
        if response.usable:
            _log.info("self-test passed", job=assignment.job_name, signal_to_noise=round(signal_to_noise, 2))
        else:
            _log.warning(
                "self-test failed: what this device computes is mostly rounding noise, the coordinator does not want "
                "it; try another version of onnxruntime or another execution provider",
                job=assignment.job_name,
                signal_to_noise=round(signal_to_noise, 2),
            )
        return response
