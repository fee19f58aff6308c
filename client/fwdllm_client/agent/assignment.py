"""One assignment from its first byte to its last acknowledged scalar."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import nan
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.cost import total_cost
from fwdllm_client.agent.energy import Energy
from fwdllm_client.agent.failures import WorkFailedError
from fwdllm_client.agent.feature_sums import FeatureSums
from fwdllm_client.agent.job_models import JobModels
from fwdllm_client.agent.journal import Entry
from fwdllm_client.agent.known_answer_report import KnownAnswerReport
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.measured import MeasuredDirections
from fwdllm_client.agent.reporter import Reporter
from fwdllm_client.agent.resource_usage import Meter
from fwdllm_client.agent.session import AT_ONCE
from fwdllm_client.cache.artifacts import ArtifactCache, Bundle
from fwdllm_client.cache.weights import Weights
from fwdllm_client.connection.retry import NotServedError, StopRequested, WorkGoneError
from fwdllm_client.engine import ClassSum, DirectionTask
from fwdllm_client.engine.interruption import RunEndedError
from fwdllm_client.policy.permission import Permission, WorkCancelledError
from fwdllm_common.counts import Counts
from fwdllm_common.errors import NoRoomError, NotAllowedError, RefusedError, StorageError
from fwdllm_common.fixed_point import UnusableScalarError
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import RunHeader
from fwdllm_common.orthogonal import AnyDirections
from fwdllm_common.protocol import MAX_PACKED_PER_REPORT, MAX_SCALARS_PER_REPORT

if TYPE_CHECKING:  # it needs packages that a device may lack
    from fwdllm_client.agent.masked import MaskedScalars

GROUP_S = 0.5
"""Scalars wait about this long, seconds, for others to share a message with."""

Watching = Callable[[Callable[[], bool]], AbstractContextManager[None]]
"""Ends what runs inside as soon as something is so."""

_NOT_THE_WORKS = (WorkGoneError, StopRequested, RefusedError, NotServedError, StorageError)
"""What ends an assignment, or the agent, and is no fault of the assignment's; :class:`NoRoomError` is."""

_log = structlog.get_logger()


def _unwatched(_is_over: Callable[[], bool]) -> AbstractContextManager[None]:
    return nullcontext()


class Compute(Protocol):
    """What an engine does for an assignment."""

    @property
    def example_passes(self) -> float:
        """Passes of one example through the whole model so far; a part of the model counts as its share."""

    def set_cancellation_check(self, check_cancelled: Callable[[], None]) -> None:
        """Call ``check_cancelled`` before every unperturbed run from now on; what it raises ends the work."""

    def signal_to_noise(self) -> float | None:
        """Return the signal-to-noise ratio of scalars here by the bundle's known answers; None if it has none."""

    def derivatives(
        self, theta: Float32Vector, directions: AnyDirections, task: DirectionTask
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Return the directional derivatives of the task's seeds in order, in chunks with the index of their first."""

    def evaluate(self, theta: Float32Vector) -> Counts:
        """How many of the local validation rows the model gets right, and how many there are."""

    def class_sums(self, theta: Float32Vector) -> Sequence[ClassSum]:
        """For each class of the local training rows the sum of what the head reads."""

    def unload(self) -> None:
        """Give back the model's memory until there is work again."""


class Downloads(NamedTuple):
    """What an assignment needs from its coordinator; ``models`` pins the model of each job, None does not."""

    artifacts: ArtifactCache
    weights: Weights
    models: JobModels | None = None


class Senders(NamedTuple):
    """What a device sends besides plain scalars; None where it cannot, or where its owner does not allow it."""

    feature_sums: FeatureSums | None = None
    known_answers: KnownAnswerReport | None = None
    masked: MaskedScalars | None = None


class Bounds(NamedTuple):
    """The owner's bounds: ``measured`` on the directions at one θ, None for none; ``check_labels`` raises."""

    measured: MeasuredDirections | None = None
    check_labels: Callable[[Sequence[str]], None] = lambda _labels: None


class AssignmentWork:
    """Does assignments one after another and keeps what the next one can use.

    :param link: the calls, the journal and ``stop``, which ends the work after the scalars that are being computed.
    :param permission: ends it likewise; what is left is given back at the check-in that follows at once.
    :param downloads: what is fetched before the work.
    :param open_engine: makes the engine for a bundle; called again only when the bundle changes.
    :param clock: seconds, monotonic.
    :param energy: joules that the device has used.
    :param watch: ends the runs of the engine when the agent may not go on.
    """

    def __init__(
        self,
        link: Link,
        permission: Permission,
        downloads: Downloads,
        open_engine: Callable[[Bundle], Compute],
        clock: Callable[[], float] = time.monotonic,
        energy: Energy = lambda: None,
        senders: Senders = Senders(),  # noqa: B008 - has no state
        bounds: Bounds = Bounds(),  # noqa: B008 - has no state
        watch: Watching = _unwatched,
    ) -> None:
        self._link = link
        self._permission = permission
        self._downloads = downloads
        self._open_engine = open_engine
        self._clock = clock
        self._energy = energy
        self._senders = senders
        self._bounds = bounds
        self._watch = watch
        self._tested = ""
        self._bundle = ""
        self._engine: Compute | None = None

    def __call__(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        """Do ``assignment``, going on where the journal ends; returns when to check in again, if the answers said so.

        :raises WorkFailedError: this device cannot do it, or its owner does not want it.
        :raises StorageError: the disk is full; what was acknowledged stays acknowledged.
        :raises WorkGoneError: the coordinator does not know the assignment any more.
        :raises StopRequested: the agent is to stop; what it computed is in the journal.
        """
        try:
            with self._permission.session(), self._watch(lambda: self._may_not(assignment)):
                self._permission.check(assignment.job_name)
                return self._send_feature_sums(assignment) if assignment.feature_sums else self._measure(assignment)
        except (WorkCancelledError, RunEndedError) as ended:
            if self._link.stop.is_set():
                raise StopRequested from ended
            _log.info("work given back", job=assignment.job_name, round=assignment.round)
            return AT_ONCE
        except NoRoomError as error:
            raise WorkFailedError(assignment, error) from error
        except _NOT_THE_WORKS:
            raise
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            self._engine = None
            raise WorkFailedError(assignment, error) from error

    def _may_not(self, assignment: device_pb2.Assignment) -> bool:
        return self._link.stop.is_set() or not self._permission.granted(assignment.job_name)

    def _measure(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        deadline = self._clock() + assignment.deadline_ms / 1000
        is_masked = assignment.HasField("secure_aggregation")
        if is_masked and self._can_mask().are_kept(assignment):
            return self._send_masked(assignment)
        header = RunHeader.from_message(assignment.header)
        bundle = self._fetched(assignment)
        theta = self._downloads.weights.at(assignment, header, bundle.manifest.layout).theta
        engine = self._engine_for(bundle)
        if (answer := self._test(assignment, bundle, engine)) is not None and not answer.usable:
            return answer.next
        admitted = assignment if self._bounds.measured is None else self._bounds.measured.admit(assignment)
        started = self._clock()
        with self._link.reporter() as reporter:
            entries = self._entries(admitted, header, bundle.manifest.layout, theta, engine, deadline, reporter)
            if is_masked:
                layout = bundle.manifest.layout
                orders = [header.order_of(layout.block(task.block)) for task in assignment.directions]
                self._keep_masked(assignment, list(entries), orders, reporter)
            else:
                for entry in entries:
                    reporter.submit(entry)
            engine.unload()
            if self._link.stop.is_set():
                raise StopRequested
            reporter.finish()
        if is_masked and self._can_mask().are_kept(assignment):
            return self._send_masked(assignment)
        done = self._link.journal.progress(assignment.assignment_id) or 0
        if not self._permission.granted(assignment.job_name):
            _log.info("work given back", job=assignment.job_name, round=assignment.round, scalars=done)
            return AT_ONCE
        _log.info(
            "assignment done",
            job=assignment.job_name,
            round=assignment.round,
            scalars=done,
            seconds=round(self._clock() - started, 3),
            stopped=reporter.is_stopped(assignment.assignment_id),
        )
        return reporter.window

    def _can_mask(self) -> MaskedScalars:
        if self._senders.masked is None:
            raise NotAllowedError("it asks for masked scalars, for which this device lacks the package cryptography")
        return self._senders.masked

    def _keep_masked(
        self,
        assignment: device_pb2.Assignment,
        entries: Sequence[Entry],
        orders: Sequence[int],
        reporter: Reporter,
    ) -> None:
        """Keep the scalars for the sum if all are computed; of the entries only what is no scalar is reported.

        Scalars that no sum can have are reported as one that is not a number: the coordinator looks for divergence.
        """
        derivatives = [value for entry in entries for value in entry.derivatives]
        if len(derivatives) < sum(seeds.count for task in assignment.directions for seeds in task.seeds):
            return
        reported = array("f")
        try:
            self._can_mask().keep(assignment, derivatives, orders)
        except UnusableScalarError as error:
            _log.warning("scalars not usable", job=assignment.job_name, round=assignment.round, reason=str(error))
            reported.append(nan)
        evaluation = next((entry.evaluation for entry in entries if entry.evaluation is not None), None)
        cost = total_cost(entry.cost for entry in entries)
        reporter.submit(Entry(assignment.assignment_id, 0, reported, evaluation, cost))

    def _send_masked(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        return self._can_mask().send(assignment, self._check_cancelled(assignment))

    def _test(
        self, assignment: device_pb2.Assignment, bundle: Bundle, engine: Compute
    ) -> device_pb2.SelfTestResponse | None:
        """Return the coordinator's answer to the known-answer test that precedes the first scalars on a bundle."""
        if self._senders.known_answers is None or self._tested == bundle.sha256:
            return None
        signal_to_noise = engine.signal_to_noise()
        if signal_to_noise is None:
            return None
        answer = self._senders.known_answers.send(assignment, signal_to_noise)
        # One that has failed is made again, when the coordinator asks again.
        self._tested = bundle.sha256 if answer.usable else ""
        return answer

    def _send_feature_sums(self, assignment: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
        if self._senders.feature_sums is None:
            _log.warning(
                "the coordinator asks for sums of features, which the owner of this device has not allowed; "
                "nothing was computed and nothing was sent",
                job=assignment.job_name,
            )
            return None
        check_cancelled = self._check_cancelled(assignment)
        bundle = self._fetched(assignment)
        file = self._downloads.artifacts.fetch(
            assignment.theta_digest.hex(), 4 * bundle.manifest.layout.size, check_cancelled
        )
        theta = np.fromfile(file, dtype="<f4").astype(np.float32)
        engine = self._engine_for(bundle)
        meter = Meter(self._clock, lambda: engine.example_passes, self._energy)
        engine.set_cancellation_check(check_cancelled)
        try:
            sums = engine.class_sums(theta)
        finally:
            engine.unload()
        check_cancelled()
        return self._senders.feature_sums.send(assignment, bundle.manifest.labels, sums, meter.take())

    def _check_cancelled(self, assignment: device_pb2.Assignment) -> Callable[[], None]:
        return partial(self._permission.check, assignment.job_name)

    def _fetched(self, assignment: device_pb2.Assignment) -> Bundle:
        """Return the assignment's bundle, after another model is unloaded, whose files may have to make room."""
        if self._downloads.models is not None:
            self._downloads.models.check(assignment)
        if self._bundle != assignment.manifest_sha256.hex():
            self._engine = None
        check_cancelled = self._check_cancelled(assignment)
        bundle = self._downloads.artifacts.bundle(assignment.manifest_sha256, check_cancelled, assignment.mirror)
        self._bounds.check_labels(bundle.manifest.labels)
        return bundle

    def _engine_for(self, bundle: Bundle) -> Compute:
        if self._engine is None:
            self._engine = self._open_engine(bundle)
            self._bundle = bundle.sha256
        return self._engine

    def _entries(
        self,
        assignment: device_pb2.Assignment,
        header: RunHeader,
        layout: Layout,
        theta: Float32Vector,
        engine: Compute,
        deadline: float,
        reporter: Reporter,
    ) -> Iterator[Entry]:
        """Return the rest of the assignment as it is computed, in groups of about :data:`GROUP_S` seconds."""

        def is_over() -> bool:
            return (
                reporter.is_stopped(assignment.assignment_id) or self._clock() >= deadline or self._may_not(assignment)
            )

        def check_cancelled() -> None:
            if is_over():
                raise WorkCancelledError

        if is_over():  # the download took too long
            return
        engine.set_cancellation_check(check_cancelled)
        done = self._link.journal.progress(assignment.assignment_id)
        meter = Meter(self._clock, lambda: engine.example_passes, self._energy)
        scalars = _Scalars(self._clock, assignment.assignment_id, done or 0, meter)
        try:
            # Evaluated first and sent with the first scalars: a round that closes early has the counts all the same.
            if assignment.evaluate and done is None:
                scalars.evaluation = engine.evaluate(theta)
                check_cancelled()
            for task in _rest(_tasks(assignment), done or 0):
                yield from scalars.begin(task.packed)
                directions = header.directions_of(layout.block(task.block))
                for _, values in engine.derivatives(theta, directions, task):
                    scalars.add(values)
                    yield from scalars.full_groups()
                    check_cancelled()
        except (WorkCancelledError, RunEndedError):
            pass  # what has been computed counts
        yield from scalars.last_group()


class _Scalars:
    """Scalars that wait for others to share a message with."""

    def __init__(self, clock: Callable[[], float], assignment_id: str, first_index: int, meter: Meter) -> None:
        self.evaluation: Counts | None = None
        self._clock = clock
        self._assignment_id = assignment_id
        self._first_index = first_index
        self._waiting: array[float] = array("f")
        self._opened = clock()
        self._meter = meter
        self._packed = False

    def begin(self, packed: bool) -> Iterator[Entry]:
        """Return what waits of another task, if packed scalars follow or go before: they have messages of their own."""
        if packed or self._packed:
            yield from self.last_group()
        self._packed = packed

    def add(self, values: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the coordinator counts what is not finite as unusable
            self._waiting.frombytes(values.astype(np.float32).tobytes())

    def full_groups(self) -> Iterator[Entry]:
        """Return what fills a message, or has waited long enough."""
        most = MAX_PACKED_PER_REPORT if self._packed else MAX_SCALARS_PER_REPORT
        while len(self._waiting) >= most:
            yield self._group(most)
        if self._waiting and self._clock() - self._opened >= GROUP_S:
            yield self._group(len(self._waiting))

    def last_group(self) -> Iterator[Entry]:
        """Whatever is left."""
        if self._waiting or self.evaluation is not None:
            yield self._group(len(self._waiting))

    def _group(self, size: int) -> Entry:
        derivatives, self._waiting = self._waiting[:size], self._waiting[size:]
        evaluation, self.evaluation = self.evaluation, None
        cost = self._meter.take()
        entry = Entry(self._assignment_id, self._first_index, derivatives, evaluation, cost, self._packed)
        self._first_index += size
        self._opened = self._clock()
        return entry


def _tasks(assignment: device_pb2.Assignment) -> Iterator[DirectionTask]:
    return (DirectionTask.from_message(message) for message in assignment.directions if message.seeds)


def _rest(tasks: Iterator[DirectionTask], done: int) -> Iterator[DirectionTask]:
    """Return the tasks without their first ``done`` directions."""
    for task in tasks:
        skipped = min(done, len(task.seeds))
        done -= skipped
        if skipped < len(task.seeds):
            yield replace(task, done=skipped)
