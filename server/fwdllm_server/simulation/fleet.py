"""Simulated devices with the interface of real ones: a discrete-event simulation with the real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from math import nan

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import JobFailedError
from fwdllm_common.fixed_point import UnusableScalarError, to_fixed_point
from fwdllm_common.noised import noised
from fwdllm_common.packing import halves
from fwdllm_common.protocol import FEATURE_SUMS, GENERATOR_2, NOISED_SUMS, SECURE_AGGREGATION
from fwdllm_common.secure_aggregation import messages
from fwdllm_server.rounds import aggregation_messages, feature_reporting, reporting
from fwdllm_server.rounds.context import Step
from fwdllm_server.rounds.delivery import fetch
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence, Present
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.simulation.population import SLOT_S, VirtualDevice
from fwdllm_server.simulation.timeline import Event, Timeline
from fwdllm_server.simulation.traffic import Traffic
from fwdllm_server.simulation.work import Message, Work
from fwdllm_server.store import assignments
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.database import Transactions

REACTION_S = 1.0
"""Smallest interval between two steps of the coordinator, in simulated seconds."""
AWAY = 2.0
"""Time for which a device that dropped out stays away, as a multiple of the job's ``assignment_s``."""
_NEVER = -1.0
LONGEST_WAIT_S = 7 * 86400.0
"""Simulated seconds without any report after which the simulation fails."""


class SimulatedFleet:
    """A :class:`fwdllm_server.rounds.fleet.Fleet` of simulated devices in this process.

    Devices fetch, compute, report and drop out as real ones do, through the same code of the coordinator. ``compute``
    has the devices and computes their scalars. Time is simulated: the duration of work follows from its cost and a
    device's speed. All owners allow feature sums.

    :param rest: called before each step of the rounds. At that moment, the store, the cost of ``compute`` and
        :meth:`to_json` together are the whole state of the simulation.
    :param start: simulated time of the start, seconds since 1970.
    """

    def __init__(
        self,
        store: Transactions,
        presence: Presence,
        compute: Compute,
        rest: Callable[[], None] = lambda: None,
        start: float = 0.0,
    ) -> None:
        self._store = store
        self._presence = presence
        self._compute = compute
        self._job = job = compute.job
        job.masks = False
        self._population = compute.population
        self._devices = devices = compute.devices
        self._places = {device.id: place for place, device in enumerate(devices)}
        self._rest = rest
        self._slot = -1
        self._here: NDArray[np.bool_] = np.zeros(len(devices), dtype=np.bool_)
        # The state that a checkpoint saves:
        self.now = self._last_report = start
        self._until = _NEVER  # events up to this time come before the rounds' next step
        self._timeline = Timeline()
        self._busy: set[str] = set()
        self._works: dict[str, Work] = {}
        self._traffic = Traffic(job)

    async def advance(self, machine: RoundMachine) -> Step:
        """Run one step of the round machine, and plan the fetches of new assignments."""
        self._rest()
        self._update_availability()
        step = machine.advance(self.now)
        with self._store.transaction() as connection:
            for assignment_id, device_id in assignments.offered(connection, self._job.id):
                if device_id not in self._busy:
                    self._busy.add(device_id)
                    self._timeline.plan(self.now + self._population.latency_s, "fetch", assignment_id)
        return step

    async def news(self, within_s: float) -> None:
        """Run events until devices have done something, or for ``within_s`` simulated seconds.

        :raises JobFailedError: no device has reported anything for a simulated week.
        """
        limit = self.now + within_s
        if self._population.availability < 1:
            limit = min(limit, (self._slot + 1) * SLOT_S)
        first = self._timeline.next_at
        if min(first, limit) - self._last_report > LONGEST_WAIT_S:
            raise JobFailedError(
                "the devices that a round needs are never present together; lower min_devices, "
                "or raise accept_s if they fetch their assignments too late"
            )
        if first > limit:
            self.now = limit
            await asyncio.sleep(0)
        else:
            self._until = min(max(first, self.now) + REACTION_S, limit)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Run the remaining events of a call of :meth:`news`, also after an interrupted simulation was restored."""
        while self._timeline.next_at <= self._until:
            await asyncio.sleep(0)  # an interrupt can only take effect here, between two events
            self._process(self._timeline.take())
        self._until = _NEVER

    def to_json(self) -> str:
        """Serialise the devices' state."""
        state = {
            "now": self.now,
            "until": self._until,
            "last_event": self._last_report,
            "events": self._timeline.events,
            "next_number": self._timeline.next_number,
            "busy": sorted(self._busy),
            "works": [work.to_json() for work in self._works.values()],
            "traffic": self._traffic.to_json(),
        }
        return json.dumps(state)

    def restore(self, text: str) -> None:
        """Restore the devices' state from :meth:`to_json`."""
        state = json.loads(text)
        self.now, self._until, self._last_report = state["now"], state["until"], state["last_event"]
        self._timeline = Timeline((Event(*event) for event in state["events"]), state["next_number"])
        self._busy = set(state["busy"])
        self._works = {work.assignment_id: work for work in map(Work.from_json, state["works"])}
        self._traffic.restore(state["traffic"])

    def _update_availability(self) -> None:
        """Update the presence of devices for the current minute."""
        slot = int(self.now // SLOT_S) if self._population.availability < 1 else 0
        if slot == self._slot:
            return
        here = self._population.present(slot, len(self._devices))
        changed = np.flatnonzero(here != self._here).tolist()
        self._slot, self._here = slot, here
        for place in changed:
            device = self._devices[place]
            if device.id not in self._busy:
                self._update_presence(device)

    def _update_presence(self, device: VirtualDevice) -> None:
        if self._here[self._places[device.id]]:
            self._presence.seen(
                Present(
                    device.id,
                    self.now,
                    device.labels,
                    frozenset((FEATURE_SUMS, GENERATOR_2, SECURE_AGGREGATION, NOISED_SUMS)),
                    task=self._job.manifest.task,
                    training_examples=len(device.training),
                )
            )
        else:
            self._presence.leave(device.id)

    def _process(self, event: Event) -> None:
        self.now = max(self.now, event.at)
        match event.kind:
            case "fetch":
                self._fetch(event.assignment_id)
            case "report":
                self._last_report = self.now
                self._report(self._works[event.assignment_id])
            case "return":
                if event.assignment_id in self._works:
                    self._end(self._works[event.assignment_id])

    def _fetch(self, assignment_id: str) -> None:
        """Let a device fetch its assignment, unless the round is over."""
        with self._store.transaction() as connection:
            record = assignments.get(connection, assignment_id)
            assert record is not None
            if not record.open:
                self._free(record.device_id)
                return
            assignment = fetch(connection, record, self._job, self.now)
            self._traffic.fetched(connection, record.device_id, assignment)
        work = self._compute.begin(record.device_id, assignment, self.now)
        self._works[assignment_id] = work
        if work.vanishes_s is not None:
            back = work.started + work.vanishes_s + AWAY * self._job.spec.rounds.assignment_s
            self._timeline.plan(back, "return", assignment_id)
        self._plan_message(work)

    def _plan_message(self, work: Work) -> None:
        """Plan the device's next message. Without one, free the device unless it has dropped out."""
        message = work.next_message
        if message is not None:
            at = work.started + message.sent_at + self._population.latency_s
            self._timeline.plan(at, "report", work.assignment_id)
        elif work.finished or (work.masked and work.vanishes_s is None):
            self._end(work)

    def _report(self, work: Work) -> None:
        message = work.next_message
        assert message is not None
        with self._store.transaction() as connection:
            record = assignments.get(connection, work.assignment_id)
            assert record is not None
            send = self._send_scalars
            if work.feature_sums:
                send = self._send_sums
            elif work.masked:
                send = self._send_for_sum
            stop = send(connection, record, work, message)
        work.next_index = message.end
        if stop:
            self._end(work)
        else:
            self._plan_message(work)

    def _send_scalars(self, connection: Connection, record: AssignmentRecord, work: Work, message: Message) -> bool:
        """Report a message's scalars. Return whether the coordinator asks the device to stop."""
        request = device_pb2.ReportRequest(
            assignment_id=work.assignment_id,
            first_index=message.first,
            usage=device_pb2.ResourceUsage(seconds=message.seconds, example_passes=message.example_passes),
        )
        values = self._compute.scalars(record, work)[message.first : message.end]
        if message.packed:
            request.halves = halves(values)
        else:
            request.derivatives.extend(values)
        if work.evaluation is not None and message.first == 0:
            request.evaluation.CopyFrom(work.evaluation.to_message())
        self._traffic.report(work.device_id, request, request.usage)
        report = Report(record, request, self._job.spec.rounds.assignment_s)
        (response,) = reporting.record(connection, [report], self.now)
        self._traffic.answered(work.device_id, response)
        return response.stop

    def _send_for_sum(self, connection: Connection, record: AssignmentRecord, work: Work, message: Message) -> bool:
        """Hand in what the device would have masked, with its noise. Return True: nothing follows.

        Masks cancel in the sum, so that the sum is the same without them.
        """
        report = device_pb2.ReportRequest(
            assignment_id=work.assignment_id,
            usage=device_pb2.ResourceUsage(seconds=message.seconds, example_passes=message.example_passes),
        )
        if work.evaluation is not None:
            report.evaluation.CopyFrom(work.evaluation.to_message())
        assignment = fetch(connection, record, self._job, self.now)
        try:
            scalars = [to_fixed_point(value) for value in self._compute.scalars(record, work)]
        except UnusableScalarError:
            scalars = []
            report.derivatives.append(nan)
        self._traffic.report(work.device_id, report, report.usage)
        (heard,) = reporting.record(connection, [Report(record, report, self._job.spec.rounds.assignment_s)], self.now)
        self._traffic.answered(work.device_id, heard)
        if scalars:
            values = np.array(scalars, dtype=np.int64) * assignment.secure_aggregation.weight
            if assignment.secure_aggregation.clip:
                header, layout = self._job.header, self._job.manifest.layout
                orders = [header.order_of(layout.block(task.block)) for task in assignment.directions]
                values = noised(values, assignment, orders)
            words = messages.words_message(values.view(np.uint64))
            request = device_pb2.AggregateRequest(assignment_id=work.assignment_id, masked=words)
            self._traffic.report(work.device_id, request, device_pb2.ResourceUsage())
            self._traffic.answered(work.device_id, aggregation_messages.take(connection, record, request, self.now))
        return True

    def _send_sums(self, connection: Connection, record: AssignmentRecord, work: Work, message: Message) -> bool:
        """Report all feature sums at once. Return True: the assignment is then finished."""
        request = device_pb2.FeatureSumsRequest(
            assignment_id=work.assignment_id,
            sums=self._compute.class_sums(work),
            last=True,
            usage=device_pb2.ResourceUsage(seconds=message.seconds, example_passes=message.example_passes),
        )
        self._traffic.report(work.device_id, request, request.usage)
        response = feature_reporting.record(connection, record, request, self._job.manifest)
        self._traffic.answered(work.device_id, response)
        return True

    def _end(self, work: Work) -> None:
        """End an assignment that the device has finished, or has lost by dropping out."""
        del self._works[work.assignment_id]
        self._compute.end(work)
        self._free(work.device_id)

    def _free(self, device_id: str) -> None:
        self._busy.discard(device_id)
        self._update_presence(self._devices[self._places[device_id]])
