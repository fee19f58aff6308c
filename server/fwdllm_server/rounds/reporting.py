"""The way of a scalar into the store: checked, turned into fixed point, counted once (DESIGN §2, invariant 4).

Messages that wait for the disk together share their statements: about ten, however many messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.counts import Counts
from fwdllm_common.fixed_point import UnusableScalarError, to_fixed_point
from fwdllm_common.packing import integers_of
from fwdllm_common.protocol import MAX_SCALARS_PER_REPORT
from fwdllm_common.seeds import total
from fwdllm_server.rounds import aggregating
from fwdllm_server.store import assignments, job_devices, jobs, rounds, scalar_spans, scalars
from fwdllm_server.store.assignments import LATE, AssignmentRecord, AssignmentState
from fwdllm_server.store.job_devices import Spent
from fwdllm_server.store.rounds import Phase, RoundRecord
from fwdllm_server.store.scalar_spans import NewSpan
from fwdllm_server.store.scalars import NewScalar

_ACCEPTING = (Phase.ASSIGNED, Phase.COLLECTING)
_ROUNDING = 1e-9


class Report(NamedTuple):
    """One message of a report; new scalars prolong an open assignment by ``assignment_s`` seconds."""

    assignment: AssignmentRecord
    request: device_pb2.ReportRequest
    assignment_s: float


def record(connection: Connection, reports: Sequence[Report], now: float) -> list[device_pb2.ReportResponse]:
    """Store messages as if one came after the other; the responses are valid once the transaction is durable."""
    progress = _Progress.read(connection, reports)
    taken = [progress.take(report, now) for report in reports]
    return _apply(connection, progress, taken)


def _apply(connection: Connection, progress: _Progress, taken: Sequence[_Taken]) -> list[device_pb2.ReportResponse]:
    """Store what was taken of the messages, and complete their responses."""
    stored = scalars.record(connection, [scalar for each in taken for scalar in each.new])
    stored_spans = scalar_spans.record(connection, [each.span for each in taken if each.span is not None])
    for each in taken:
        # Another coordinator may have been faster.
        each.response.accepted = sum((scalar.job_id, scalar.seed, scalar.copy) in stored for scalar in each.new)
        if each.span is not None and (each.span.job_id, each.span.seeds.start) in stored_spans:
            each.response.accepted = len(each.span.seeds)
        each.response.repeated = each.usable - each.response.accepted
    assignments.set_states(connection, progress.moved)
    assignments.prolong_all(connection, progress.prolonged)
    _count_unused(connection, taken)
    # A message that is sent again carries its resource usage again.
    job_devices.add(connection, [each.spent for each in taken if each.tells_usage or each.response.accepted])
    for each in taken:
        if each.report.request.HasField("evaluation"):
            _record_evaluation(connection, each.report.assignment, each.report.request.evaluation)
    return [each.response for each in taken]


class _Taken(NamedTuple):
    """A message that was looked at: its answer, how many of its scalars can be used, and those that seem new.

    Packed ones are a span.
    """

    report: Report
    response: device_pb2.ReportResponse
    usable: int = 0
    new: Sequence[NewScalar] = ()
    span: NewSpan | None = None
    waited_s: float = 0.0

    @property
    def tells_usage(self) -> bool:
        request = self.report.request
        return request.HasField("usage") and plausible(request.usage) and not self.response.repeated

    @property
    def spent(self) -> Spent:
        assignment, accepted = self.report.assignment, self.response.accepted
        usage = self.report.request.usage if self.tells_usage else None
        passes = accepted * assignment.passes / max(1, assignment.directions)
        return Spent(assignment.job_id, assignment.device_id, accepted, usage, passes, self.waited_s)


@dataclass(frozen=True)
class _Progress:
    """The progress of rounds and assignments while messages are examined, one after the other.

    ``rounds`` has the newest round of each job, ``measured`` the devices that have measured each seed of a job, and
    ``spans`` the seeds of the packed scalars of each assignment. The last two grow with the messages. ``moved`` and
    ``prolonged`` are the new states and expiries of assignments.
    """

    rounds: Mapping[str, RoundRecord | None]
    measured: Mapping[str, dict[int, list[str]]]
    spans: Mapping[str, list[range]]
    moved: dict[str, AssignmentState]
    prolonged: dict[str, float]

    @classmethod
    def read(cls, connection: Connection, reports: Iterable[Report]) -> _Progress:
        work = {report.assignment.id: report.assignment for report in reports}.values()
        current = {job_id: rounds.latest(connection, job_id) for job_id in {each.job_id for each in work}}
        spans = scalar_spans.measured_by(connection, [each.id for each in work if each.packed])
        progress = cls(current, {}, {each.id: spans.get(each.id, []) for each in work}, {}, {})
        seeds: dict[tuple[str, int], set[int]] = defaultdict(set)
        for each in work:
            if progress._accepting(each) is not None:
                seeds[each.job_id, each.round].update(each.seeds)
        measured = {place[0]: scalars.measured_by(connection, *place, wanted) for place, wanted in seeds.items()}
        return replace(progress, measured=measured)

    def take(self, report: Report, now: float) -> _Taken:
        assignment, request, assignment_s = report
        response = device_pb2.ReportResponse(assignment_id=assignment.id, first_index=request.first_index)
        current = self._accepting(assignment)
        if current is None:
            response.late = len(request.derivatives) + len(request.halves) // 2
            response.stop = True
            return _Taken(report, response)
        if aggregating.is_secured(current):
            # Scalars of its own nobody is to see; with none it says what it has found by evaluation.
            response.unusable = len(request.derivatives) + len(request.halves) // 2
            taken = _Taken(report, response)
        elif request.halves:
            taken = self._take_packed(report, response)
        else:
            taken = self._take_single(report, response, current)
        waited_s = now + assignment_s - self.prolonged.get(assignment.id, assignment.expires_at)
        if response.unusable:
            # The device's numbers are no good: others measure what it has not.
            self.moved[assignment.id] = AssignmentState.UNUSABLE
            response.stop = True
        elif self._is_done(assignment, current):
            self.moved[assignment.id] = AssignmentState.DONE
            # What it has not measured itself, others have.
            sent = len(request.derivatives) + len(request.halves) // 2
            response.stop = request.first_index + sent < assignment.directions
        elif taken.new or taken.span:  # anything else is no news: an assignment could be held with it for ever
            self.prolonged[assignment.id] = now + assignment_s
        return taken._replace(waited_s=waited_s)

    def _take_single(self, report: Report, response: device_pb2.ReportResponse, current: RoundRecord) -> _Taken:
        assignment, request, _ = report
        seeds = assignment.seeds
        values = _usable(seeds[request.first_index :], request.derivatives[:MAX_SCALARS_PER_REPORT])
        response.unusable = len(request.derivatives) - len(values)
        return _Taken(report, response, len(values), self._new(assignment, current, values))

    def _take_packed(self, report: Report, response: device_pb2.ReportResponse) -> _Taken:
        """Return the next scalars of a frame, all of them or none; those that were there before are repeated."""
        assignment, request, _ = report
        count = len(request.halves) // 2
        seeds = _packed_seeds(assignment, request.first_index, count)
        if seeds is None or not _are_usable(request.halves):
            response.unusable = max(1, count)
            return _Taken(report, response)
        there = self.spans[assignment.id]
        if any(seeds.start in each for each in there):
            return _Taken(report, response, count)
        if not self._is_next(assignment, seeds):
            response.unusable = count
            return _Taken(report, response)
        there.append(seeds)
        span = NewSpan(assignment.job_id, assignment.round, seeds, assignment.id, assignment.device_id, request.halves)
        return _Taken(report, response, count, span=span)

    def _is_next(self, assignment: AssignmentRecord, seeds: range) -> bool:
        """Whether the span before is there, or none comes before: a device sends its scalars in their order."""
        starts = {task.start for task in assignment.packed.values()}
        return seeds.start in starts or any(seeds.start == before.stop for before in self.spans[assignment.id])

    def _is_done(self, assignment: AssignmentRecord, current: RoundRecord) -> bool:
        return total(self.spans[assignment.id]) >= total(assignment.packed.values()) and all(
            self._is_measured(assignment, current, seed) for seed in assignment.seeds
        )

    def _accepting(self, assignment: AssignmentRecord) -> RoundRecord | None:
        current = self.rounds[assignment.job_id]
        accepts = (
            self.moved.get(assignment.id, assignment.state) not in LATE
            and current is not None
            and current.number == assignment.round
            and current.phase in _ACCEPTING
        )
        return current if accepts else None

    def _new(
        self, assignment: AssignmentRecord, current: RoundRecord, values: Mapping[int, int]
    ) -> Sequence[NewScalar]:
        """Those of the values that there is a place for; it is taken from now on."""
        found = []
        for seed, value in values.items():
            devices = self.measured[assignment.job_id].setdefault(seed, [])
            if not self._is_measured(assignment, current, seed):
                place = (assignment.job_id, assignment.round, seed, len(devices))
                found.append(NewScalar(*place, assignment.id, assignment.device_id, value))
                devices.append(assignment.device_id)
        return found

    def _is_measured(self, assignment: AssignmentRecord, current: RoundRecord, seed: int) -> bool:
        """By enough devices, or by this one: then it is others' to measure as well."""
        devices = self.measured[assignment.job_id].get(seed, ())
        return assignment.device_id in devices or len(devices) >= current.devices_for(seed)


def _packed_seeds(assignment: AssignmentRecord, first_index: int, count: int) -> range | None:
    """Return the seeds of ``count`` packed scalars; None if they are not all of one packed task."""
    for start, seeds in assignment.packed.items():
        if start <= first_index and first_index + count <= start + len(seeds) and count:
            return seeds[first_index - start : first_index - start + count]
    return None


def _are_usable(halves: bytes) -> bool:
    try:
        integers_of(halves)
    except UnusableScalarError:
        return False
    return True


def _usable(seeds: Sequence[int], derivatives: Sequence[float]) -> Mapping[int, int]:
    values: dict[int, int] = {}
    for seed, derivative in zip(seeds, derivatives, strict=False):
        try:
            values[seed] = to_fixed_point(derivative)
        except UnusableScalarError:
            continue
    return values


def _count_unused(connection: Connection, taken: Iterable[_Taken]) -> None:
    unused: dict[str, Counter[str]] = defaultdict(Counter)
    for each in taken:
        response = each.response
        unused[each.report.assignment.job_id].update(
            repeated=response.repeated, late=response.late, unusable=response.unusable
        )
    for job_id in sorted(unused):
        jobs.count_unused(connection, job_id, **unused[job_id])


def _record_evaluation(
    connection: Connection, assignment: AssignmentRecord, counts: device_pb2.EvaluationCounts
) -> None:
    f1 = counts.f1 if counts.HasField("f1") else None
    # Exact matches have an F1 of 1; the rounding of a sum is forgiven.
    plausible_f1 = f1 is None or (counts.correct <= f1 * (1 + _ROUNDING) and f1 <= counts.total * (1 + _ROUNDING))
    if assignment.evaluate and counts.correct <= counts.total and plausible_f1:
        assignments.evaluated(connection, assignment.id, Counts(counts.correct, counts.total, f1))


def plausible(usage: device_pb2.ResourceUsage) -> bool:
    """Whether the numbers can be those of a device."""
    numbers = (
        *(usage.seconds, usage.example_passes, usage.joules),
        *(usage.peak_rss_bytes, usage.bytes_sent, usage.bytes_received, usage.artifact_bytes),
    )
    return all(0 <= number <= job_devices.MOST for number in numbers)  # NaN compares with nothing
