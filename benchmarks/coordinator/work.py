"""A device that does the work it is given, without computing: its scalars are a function of the seed."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.coordinator.connections import Connection, Loop
from benchmarks.coordinator.fleets import CHECK_IN
from fwdllm.v1.device_pb2 import Assignment, CheckInResponse, ReportRequest, ReportResponse, ResourceUsage

_REPORT = "/fwdllm.v1.DeviceService/Report"


class Worker:
    """Checks in until ``end``, every ``ask_again_s`` seconds while there is no work.

    Of each assignment it reports all, a message when the last one is acknowledged.
    """

    def __init__(
        self, loop: Loop, connection: Connection, check_in: bytes, per_message: int, ask_again_s: float, end: float
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._check_in = check_in
        self._per_message = per_message
        self._ask_again_s = ask_again_s
        self._end = end
        self.done = False
        self.scalars = 0
        """Acknowledged as new and durable before the end."""
        self.failed = 0
        self.latencies_ms: list[float] = []

    def ask(self) -> None:
        """Check in, unless the time is up."""
        if time.perf_counter() >= self._end or not self._connection.open:
            self.failed += not self._connection.open
            self.done = True
            return
        self._connection.unary(CHECK_IN, self._check_in, self._answered)

    def _answered(self, answer: bytes | None) -> None:
        response = CheckInResponse.FromString(answer or b"")
        self.failed += answer is None
        if response.HasField("assignment"):
            self._report(response.assignment)
        else:
            self._loop.later(self._ask_again_s, self.ask)

    def _report(self, assignment: Assignment) -> None:
        seeds = [span.first + i for task in assignment.directions for span in task.seeds for i in range(span.count)]
        starts = range(0, len(seeds), self._per_message)
        messages = [
            ReportRequest(
                assignment_id=assignment.assignment_id,
                first_index=start,
                derivatives=[scalar_of(seed) for seed in seeds[start : start + self._per_message]],
                usage=ResourceUsage(seconds=1.0, example_passes=8.0 * self._per_message, peak_rss_bytes=60 << 20),
            ).SerializeToString()
            for start in starts
        ]
        messages.reverse()
        sent = 0.0
        send: Callable[[bytes, bool], None]

        def send_next() -> None:
            nonlocal sent
            sent = time.perf_counter()
            message = messages.pop()
            send(message, not messages)

        def acknowledged(answer: bytes | None) -> None:
            now = time.perf_counter()
            if answer is None:  # the end of the stream; early, where messages are left
                self.failed += bool(messages)
                self.ask()
                return
            response = ReportResponse.FromString(answer)
            if now < self._end:
                self.scalars += response.accepted
                self.latencies_ms.append(1000 * (now - sent))
            if response.stop:
                del messages[1:]  # one more ends the stream
            if messages:
                send_next()

        send = self._connection.stream(_REPORT, acknowledged)
        send_next()


def scalar_of(seed: int) -> float:
    """Return a number from −1 to 1 that depends on the seed alone."""
    return (seed * 2654435761 >> 5) % 4001 / 2000 - 1
