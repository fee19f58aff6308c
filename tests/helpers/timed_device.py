"""Devices on a rig that take their time, so that rounds have a length."""

from dataclasses import dataclass
from itertools import pairwise

from helpers.rig import Rig, derivative

from fwdllm.v1 import device_pb2
from fwdllm_server.store.assignments import AssignmentRecord

PASSES = 16 / 3
"""Of a direction in the head of the tiny job: 16 rows through one of three equal stages."""


@dataclass
class TimedDevice:
    """Measures so many directions of the head in a second, and reports every second what is ready."""

    name: str
    directions_per_s: float
    assignment: AssignmentRecord | None = None
    ready: float = 0.0
    reported: int = 0
    news_at: float = 0.0

    def second(self, rig: Rig) -> None:
        if self.assignment is None:
            self._check_in(rig)
            return
        self.ready += self.directions_per_s
        seeds = self.assignment.seeds[self.reported : int(self.ready)]
        if not seeds:
            return
        usage = device_pb2.ResourceUsage(seconds=rig.now - self.news_at, example_passes=PASSES * len(seeds))
        answer = rig.report(self.assignment.id, [derivative(seed) for seed in seeds], self.reported, usage)
        self.reported += len(seeds)
        self.news_at = rig.now
        if answer.stop or self.reported == self.assignment.directions:
            self.assignment = None
            self._check_in(rig)

    def _check_in(self, rig: Rig) -> None:
        for work in rig.check_in(self.name):
            self.assignment, self.ready, self.reported, self.news_at = work, 0.0, 0, rig.now


def seconds_of_rounds(rig: Rig, devices: list[TimedDevice], count: int) -> list[float]:
    """How long each of the next rounds takes when these devices work."""
    commits = [rig.now]
    while len(commits) <= count:
        before = rig.job.state.version
        for device in devices:
            device.second(rig)
        rig.settle()
        if rig.job.state.version > before:
            commits.append(rig.now)
            rig.settle()
        rig.now += 1
        assert rig.now < 100_000, "the round does not end"
    return [later - earlier for earlier, later in pairwise(commits)]


def directions_by_device(rig: Rig, number: int) -> dict[str, int]:
    """What each device was given in a round."""
    found: dict[str, int] = {}
    for work in rig.work_of_round(number):
        found[work.device_id] = found.get(work.device_id, 0) + work.directions
    return found
