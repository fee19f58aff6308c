"""Simulated devices behind the same seam as real ones: a discrete-event simulation around the real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from fwdllm.v1 import device_pb2
from fwdllm_client.engine import Engine
from fwdllm_common.errors import JobFailedError
from fwdllm_common.packing import halves
from fwdllm_common.protocol import FEATURE_SUMS, GENERATOR_2
from fwdllm_server.rounds import feature_reporting, reporting
from fwdllm_server.rounds.fetching import fetch
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence, Present
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.rounds.training import Step, TrainingJob
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.simulation.cost import PassCounter
from fwdllm_server.simulation.population import SLOT_S, Population, VirtualDevice
from fwdllm_server.simulation.timeline import Event, Timeline
from fwdllm_server.simulation.traffic import Traffic
from fwdllm_server.simulation.work import Message, Work
from fwdllm_server.store import assignments
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.database import Database

REACTION_S = 1.0
"""The coordinator looks at what devices did at most once in so many simulated seconds."""
AWAY = 2.0
"""A device that vanishes stays away for so many times the seconds after which its assignment expires."""
_NEVER = -1.0
LONGEST_WAIT_S = 7 * 86400.0
"""Simulated seconds without any report after which nobody is waited for any longer."""


class SimulatedFleet:
    """A :class:`fwdllm_server.rounds.fleet.Fleet` in this process.

    Devices fetch, compute, report and vanish as real ones do, through the same code of the coordinator. Numbers are
    ``engine``'s; time is simulated: what work takes follows from ``cost`` and a device's speed. Their owners allow sums
    of features. ``rest`` is called before each step of the rounds; the store, ``cost`` and :meth:`to_json` then say
    together all there is to know. ``start`` is when it begins, seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        presence: Presence,
        job: TrainingJob,
        population: Population,
        devices: Sequence[VirtualDevice],
        engine: Engine,
        cost: PassCounter,
        rest: Callable[[], None] = lambda: None,
        start: float = 0.0,
    ) -> None:
        self._database = database
        self._presence = presence
        self._job = job
        self._population = population
        self._devices = devices
        self._places = {device.id: place for place, device in enumerate(devices)}
        self._compute = Compute(job, population, {device.id: device for device in devices}, engine, cost)
        self._rest = rest
        self._slot = -1
        self._here: NDArray[np.bool_] = np.zeros(len(devices), dtype=np.bool_)
        # What a checkpoint keeps:
        self.now = self._last_report = start
        self._until = _NEVER  # to which all is to happen before the next step of the rounds
        self._timeline = Timeline()
        self._busy: set[str] = set()
        self._works: dict[str, Work] = {}
        self._traffic = Traffic(job)

    async def advance(self, machine: RoundMachine) -> Step:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`."""
        self._rest()
        self._come_and_go()
        step = machine.advance(self.now)
        with self._database.transaction() as connection:
            for assignment_id, device_id in assignments.offered(connection, self._job.id):
                if device_id not in self._busy:
                    self._busy.add(device_id)
                    self._timeline.plan(self.now + self._population.latency_s, "fetch", assignment_id)
        return step

    async def news(self, within_s: float) -> None:
        """See :class:`fwdllm_server.rounds.fleet.Fleet`.

        :raises JobFailedError: nobody has reported anything for a week.
        """
        limit = self.now + within_s
        if self._population.availability < 1:
            limit = min(limit, (self._slot + 1) * SLOT_S)
        first = self._timeline.next_at
        if min(first, limit) - self._last_report > LONGEST_WAIT_S:
            raise JobFailedError(
                "the devices that a round needs are never there together; lower min_devices, "
                "or raise accept_s if they fetch their assignments too late"
            )
        if first > limit:
            self.now = limit
            await asyncio.sleep(0)
        else:
            self._until = min(max(first, self.now) + REACTION_S, limit)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Let happen what :meth:`news` had begun with when the simulation was interrupted."""
        while self._timeline.next_at <= self._until:
            await asyncio.sleep(0)  # the only place where an interrupt is heard: between two events
            self._happen(self._timeline.take())
        self._until = _NEVER

    def to_json(self) -> str:
        """Where the devices stand."""
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
        """The inverse of :meth:`to_json`."""
        state = json.loads(text)
        self.now, self._until, self._last_report = state["now"], state["until"], state["last_event"]
        self._timeline = Timeline((Event(*event) for event in state["events"]), state["next_number"])
        self._busy = set(state["busy"])
        self._works = {work.assignment_id: work for work in map(Work.from_json, state["works"])}
        self._traffic.restore(state["traffic"])

    def _come_and_go(self) -> None:
        """Who is there in this minute."""
        slot = int(self.now // SLOT_S) if self._population.availability < 1 else 0
        if slot == self._slot:
            return
        here = self._population.present(slot, len(self._devices))
        changed = np.flatnonzero(here != self._here).tolist()
        self._slot, self._here = slot, here
        for place in changed:
            device = self._devices[place]
            if device.id not in self._busy:
                self._tell_presence(device)

    def _tell_presence(self, device: VirtualDevice) -> None:
        if self._here[self._places[device.id]]:
            self._presence.seen(
                Present(
                    device.id,
                    self.now,
                    device.labels,
                    frozenset((FEATURE_SUMS, GENERATOR_2)),
                    task=self._job.manifest.task,
                    training_examples=len(device.training),
                )
            )
        else:
            self._presence.leave(device.id)

    def _happen(self, event: Event) -> None:
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
        """A device gets what was offered to it, unless the round is over."""
        with self._database.transaction() as connection:
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
        """The device's next message; if there is none it is free, unless it has vanished."""
        message = work.next_message
        if message is not None:
            at = work.started + message.sent_at + self._population.latency_s
            self._timeline.plan(at, "report", work.assignment_id)
        elif work.finished:
            self._end(work)

    def _report(self, work: Work) -> None:
        message = work.next_message
        assert message is not None
        with self._database.transaction() as connection:
            record = assignments.get(connection, work.assignment_id)
            assert record is not None
            send = self._send_sums if work.feature_sums else self._send_scalars
            stop = send(connection, record, work, message)
        work.next_index = message.end
        if stop:
            self._end(work)
        else:
            self._plan_message(work)

    def _send_scalars(self, connection: Connection, record: AssignmentRecord, work: Work, message: Message) -> bool:
        """Returns whether the coordinator has enough of the assignment."""
        request = device_pb2.ReportRequest(
            assignment_id=work.assignment_id,
            first_index=message.first,
            effort=device_pb2.Effort(seconds=message.seconds, example_passes=message.example_passes),
        )
        values = self._compute.scalars(record, work)[message.first : message.end]
        if message.packed:
            request.halves = halves(values)
        else:
            request.derivatives.extend(values)
        if work.evaluation is not None and message.first == 0:
            request.evaluation.CopyFrom(work.evaluation.to_message())
        self._traffic.report(work.device_id, request, request.effort)
        report = Report(record, request, self._job.spec.rounds.assignment_s)
        (response,) = reporting.record(connection, [report], self.now)
        self._traffic.answered(work.device_id, response)
        return response.stop

    def _send_sums(self, connection: Connection, record: AssignmentRecord, work: Work, message: Message) -> bool:
        """Returns True: all sums go at once."""
        request = device_pb2.FeatureSumsRequest(
            assignment_id=work.assignment_id,
            sums=self._compute.class_sums(work),
            last=True,
            effort=device_pb2.Effort(seconds=message.seconds, example_passes=message.example_passes),
        )
        self._traffic.report(work.device_id, request, request.effort)
        response = feature_reporting.record(connection, record, request, self._job.manifest)
        self._traffic.answered(work.device_id, response)
        return True

    def _end(self, work: Work) -> None:
        """The device has done with its assignment, or has come back without it."""
        del self._works[work.assignment_id]
        self._compute.end(work)
        self._free(work.device_id)

    def _free(self, device_id: str) -> None:
        self._busy.discard(device_id)
        self._tell_presence(self._devices[self._places[device_id]])
