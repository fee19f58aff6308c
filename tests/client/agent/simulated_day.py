"""A day in the life of a device: its real agent on a clock that runs only when something takes time.

Session, assignment, permission, reporter, journal and downloads are the agent's own; sensors, clock, coordinator and
model are made up.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from client.conftest import FakeStop, Job, QuadraticCompute

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.assignment import AssignmentWork, Downloads
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.session import Session
from fwdllm_client.cache.artifacts import ArtifactCache
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.cache.weights import Weights
from fwdllm_client.conditions import Conditions, Gate, Rules
from fwdllm_client.connection.transport import Traffic
from fwdllm_client.policy.choices import ChoicesFile
from fwdllm_client.policy.permission import Permission

DAY_S = 86_400.0
DIRECTIONS = 24
"""In an assignment."""


@dataclass(frozen=True)
class Timeline:
    """What is true of a device: its conditions from each moment on, the first from 0 on."""

    moments: tuple[float, ...]
    conditions: tuple[Conditions, ...]

    def at(self, now: float) -> Conditions:
        return self.conditions[bisect_right(self.moments, now) - 1]

    def spans(self):
        """(from, to, conditions) of each stretch of the day."""
        ends = (*self.moments[1:], DAY_S)
        return list(zip(self.moments, ends, self.conditions, strict=True))


@dataclass
class Assigned:
    """One assignment as the coordinator remembers it; ``values`` by index."""

    seeds: range
    values: dict[int, float] = field(default_factory=dict)
    returned: bool = False


class Office:
    """A coordinator without a network that always has work; what is given back goes to somebody else."""

    def __init__(self, day):
        self.address = "the office"
        self.traffic = Traffic()
        self.check_ins = []  # (moment, request)
        self.assigned = {}
        self.by_others = []
        self._day = day
        self._files = {}

    def add_file(self, data):
        self._files[hashlib.sha256(data).digest()] = data
        return hashlib.sha256(data)

    def check_in(self, request):
        self.check_ins.append((self._day.now, request))
        for assigned in self.open():
            if request.conditions.holds:
                assigned.returned = True
                self.by_others += [seed for i, seed in enumerate(assigned.seeds) if i not in assigned.values]
        counting = list(self.assigned)
        answer = device_pb2.CheckInResponse(next=device_pb2.CheckInWindow(min_ms=5000, max_ms=30_000))
        if not request.conditions.holds:
            if not self.open():
                first = 1 + DIRECTIONS * len(self.assigned)
                self.assigned[f"a{len(self.assigned)}"] = Assigned(range(first, first + DIRECTIONS))
            name, assigned = list(self.assigned.items())[-1]
            work = self._day.job.assignment(name, ((assigned.seeds[0], DIRECTIONS),), deadline_ms=10**9)
            answer.assignment.CopyFrom(work)
            counting = list(self.assigned)
        answer.open_assignments.extend(counting)
        return answer

    def open(self):
        return [each for each in self.assigned.values() if not each.returned and len(each.values) < DIRECTIONS]

    def get_artifact(self, request):
        data = self._files[request.sha256]
        return Streamed([device_pb2.ArtifactChunk(data=data[request.offset :], total_bytes=len(data))])

    def get_weights(self, request):
        return Streamed(self.on_weights(request))

    def report(self, requests):
        return Streamed(map(self._accept, requests))

    def _accept(self, request):
        assigned = self.assigned[request.assignment_id]
        for index, value in enumerate(request.derivatives, start=request.first_index):
            assert assigned.values.setdefault(index, value) == value == assigned.seeds[index]
        return device_pb2.ReportResponse(assignment_id=request.assignment_id, first_index=request.first_index)


class Streamed:
    def __init__(self, messages):
        self._messages = iter(messages)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._messages)

    def cancel(self):
        pass


class SlowCompute(QuadraticCompute):
    """Takes its time for each direction, and remembers when it began them."""

    def __init__(self, day):
        super().__init__(day.job.layout)
        self._day = day
        self.begun = []  # (moment, seed)

    def derivatives(self, theta, directions, task):
        self.tasks.append(task)
        for index in range(task.done, len(task.seeds)):
            seed = int(task.seeds[index])
            self.begun.append((self._day.now, seed))
            self._day.now += self._day.direction_s
            self.example_passes += task.batch_size
            yield index, np.array([seed], dtype=np.float64)  # so that one sees which seed it is of


class Day:
    """Runs the agent from midnight to midnight in ``folder``; ``restarts`` are moments at which its process dies."""

    def __init__(self, folder, timeline, direction_s, rules=Rules(), restarts=()):  # noqa: B008 - frozen
        self.now = 0.0
        self.timeline = timeline
        self.direction_s = direction_s
        self.rules = rules
        self.folder = folder
        self.office = Office(self)
        self.job = Job(self.office)
        self.compute = SlowCompute(self)
        self.readings = []  # (moment, conditions)
        self._restarts = list(restarts)

    def read(self):
        found = self.timeline.at(self.now)
        self.readings.append((self.now, found))
        return found

    def run(self):
        while self.now < DAY_S:
            self._life()
        return self

    def left(self):
        """What the device has computed and not delivered."""
        with closing(Journal(self.folder / "journal.sqlite")) as journal:
            return journal.unacknowledged()

    def _life(self):
        """From a start of the agent to its end."""
        ends = min((moment for moment in (*self._restarts, DAY_S) if moment > self.now), default=DAY_S)
        day = self

        class Until(FakeStop):
            def is_set(self):
                return day.now >= ends

            def wait(self, timeout=None):
                day.now += timeout or 0
                return day.now >= ends

        stop, clock = Until(), lambda: self.now
        with closing(Journal(self.folder / "journal.sqlite")) as journal:
            link = Link(self.office, journal, stop)
            choices = ChoicesFile(self.folder / "choices.json")
            permission = Permission(Gate(self, self.rules, clock), self.rules, choices, clock)
            downloads = Downloads(
                ArtifactCache(CacheQuota(self.folder, 1 << 40), self.office, link.retry()),
                Weights(self.folder / "weights", self.office, link.retry()),
            )
            work = AssignmentWork(link, permission, downloads, lambda bundle: self.compute, clock)
            profile = device_pb2.CheckInRequest(labels=["no", "yes"], training_examples=9)
            Session(link, profile, permission, work).run()
