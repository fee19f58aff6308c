"""From the journal to the coordinator: a stream of scalars, each kept until it is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from grpc import StatusCode

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Entry, Journal
from fwdllm_client.agent.resource_usage import usage_message
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import CallFailedError, Coordinator, Stream


class Reporter:
    """Sends what is in the journal, and what :meth:`submit` adds, while the caller goes on computing.

    The journal is the queue: a stream that breaks is opened again and sends whatever is not yet acknowledged, in order.
    Leaving the ``with`` block by an error abandons the stream; the journal keeps what was not acknowledged.
    """

    def __init__(self, coordinator: Coordinator, journal: Journal, retry: Retry) -> None:
        self._coordinator = coordinator
        self._journal = journal
        self._retry = retry
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False
        self._stopped: set[str] = set()
        self._error: Exception | None = None
        self._stream: Stream[device_pb2.ReportResponse] | None = None
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self.window: device_pb2.CheckInWindow | None = None
        """When the coordinator last said to come back."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
            if self._stream is not None:
                self._stream.cancel()

    def submit(self, entry: Entry) -> None:
        """Make ``entry`` durable, then send it.

        :raises StorageError: the disk is full.
        :raises FwdllmError: the coordinator refuses this device.
        """
        self._journal.append(entry)
        with self._changed:
            self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def is_stopped(self, assignment_id: str) -> bool:
        """Whether the coordinator has enough of this assignment."""
        return assignment_id in self._stopped

    def finish(self) -> None:
        """Wait until everything is acknowledged.

        :raises FwdllmError: the coordinator refuses this device.
        :raises WorkGoneError: it does not know an assignment in the journal.
        :raises StopRequested: the agent is to stop.
        """
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while self._wait_for_entries():
                self._retry.call(self._deliver)
        except Exception as error:  # handed to the thread that computes
            self._error = error

    def _wait_for_entries(self) -> bool:
        """Whether there is something to send; waits while there may come more."""
        with self._changed:
            while not self._abandoned:
                if self._journal.unacknowledged():
                    return True
                if self._finished:
                    return False
                self._changed.wait()
        return False

    def _deliver(self) -> None:
        """One stream, from its first request to its last answer."""
        over = threading.Event()
        with self._changed:
            if self._abandoned:
                return
            self._stream = self._coordinator.report(self._requests(over))
        answers = 0
        try:
            for response in self._stream:
                self._acknowledge(response)
                answers += 1
        finally:
            with self._changed:
                over.set()
                self._changed.notify_all()
        # A stream that breaks after its last answer is tried again, and then has nothing left to send.
        if not answers and self._journal.unacknowledged():
            raise CallFailedError(StatusCode.ABORTED, "", "the coordinator ended the report without an answer")

    def _requests(self, over: threading.Event) -> Iterator[device_pb2.ReportRequest]:
        """Return what is not acknowledged, then what is added; read by the transport's thread."""
        sent = 0
        while True:
            with self._changed:
                while not (entries := self._journal.unacknowledged(after=sent)):
                    if self._finished or self._abandoned or over.is_set():
                        return
                    self._changed.wait()
            for sent, entry in entries:  # noqa: B007 - read in the next turn
                if over.is_set():
                    return
                yield self._message(entry)

    def _acknowledge(self, response: device_pb2.ReportResponse) -> None:
        self._journal.acknowledge(response.assignment_id, response.first_index)
        self._retry.progressed()
        self.window = response.next if response.HasField("next") else self.window
        if response.stop:
            self._stopped.add(response.assignment_id)

    def _message(self, entry: Entry) -> device_pb2.ReportRequest:
        message = device_pb2.ReportRequest(
            assignment_id=entry.assignment_id,
            first_index=entry.first_index,
            usage=usage_message(entry.cost, self._coordinator.traffic),
        )
        if entry.packed:
            # Imported on demand: an agent without work does not load numpy.
            from fwdllm_common.packing import halves

            message.halves = halves(entry.derivatives)
        else:
            message.derivatives.extend(entry.derivatives)
        if entry.evaluation is not None:
            message.evaluation.CopyFrom(entry.evaluation.to_message())
        return message
