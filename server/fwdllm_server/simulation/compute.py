"""What simulated devices compute: the real engine's numbers, at the simulated time at which each device has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from fwdllm.v1 import device_pb2
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.protocol import MIN_CLASS_ROWS
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.simulation.attacks import attacked
from fwdllm_server.simulation.cost import PassCounter
from fwdllm_server.simulation.population import Population, VirtualDevice
from fwdllm_server.simulation.work import Stretch, Work
from fwdllm_server.store.assignments import LATE, AssignmentRecord


class Compute:
    """The devices of a job, with one engine for all.

    What the coordinator no longer takes is not computed and only costs simulated time.
    """

    def __init__(
        self,
        job: TrainingJob,
        population: Population,
        devices: Sequence[VirtualDevice],
        engine: Engine,
        cost: PassCounter,
    ) -> None:
        self.job = job
        self.population = population
        self.devices = devices
        self._devices = {device.id: device for device in devices}
        self._engine = engine
        self._cost = cost
        self._scalars: dict[str, Sequence[float]] = {}

    def begin(self, device_id: str, assignment: device_pb2.Assignment, now: float) -> Work:
        """Begin an assignment that a device has fetched."""
        device = self._devices[device_id]
        theta = self.job.state.theta
        evaluation = None
        if assignment.feature_sums:
            stretches = [Stretch(self._cost.features(theta, device.training), 0.0, 1)]
        else:
            stretches = [self._stretch(device, message) for message in assignment.directions]
        if assignment.evaluate and len(device.validation):
            # Evaluated first and sent with the first scalars, as the agent does.
            passes = self._cost.evaluation(theta, device.validation)
            stretches[0] = stretches[0]._replace(before=stretches[0].before + passes)
            evaluation = self._engine.evaluate(theta, device.validation).counts
        work = Work(
            assignment_id=assignment.assignment_id,
            device_id=device_id,
            started=now,
            passes_per_s=device.passes_per_s,
            stretches=stretches,
            closes_s=assignment.deadline_ms / 1000,
            vanishes_s=None,
            evaluation=evaluation,
            feature_sums=assignment.feature_sums,
            masked=assignment.HasField("secure_aggregation"),
        )
        part = self.population.vanishes(assignment.assignment_id)
        work.vanishes_s = None if part is None else part * work.total_s
        return work

    def scalars(self, record: AssignmentRecord, work: Work) -> Sequence[float]:
        """Return what the device measures, as float32; zeros where nobody will look at it."""
        if work.assignment_id not in self._scalars:
            if record.state in LATE:
                return [0.0] * work.sendable
            device = self._devices[work.device_id]
            measured = np.fromiter(islice(self._derivatives(record, device), work.sendable), dtype=np.float64)
            if device.attack is not None:
                measured = attacked(device.attack, measured, work.assignment_id)
            self._scalars[work.assignment_id] = measured.tolist()
        return self._scalars[work.assignment_id]

    def class_sums(self, work: Work) -> Sequence[device_pb2.ClassSum]:
        """Return what the device's owner allows of its features: sums of as few rows as the coordinator takes."""
        found = self._engine.class_sums(self.job.state.theta, self._devices[work.device_id].training)
        return [each.to_message() for each in found if each.rows >= MIN_CLASS_ROWS]

    def end(self, work: Work) -> None:
        """Nothing more is asked of this work."""
        self._scalars.pop(work.assignment_id, None)

    def _stretch(self, device: VirtualDevice, message: device_pb2.DirectionTask) -> Stretch:
        task = DirectionTask.from_message(message)
        before, each = self._cost.task(task, self.job.state.theta, device.training)
        return Stretch(before, each, len(task.seeds), task.packed)

    def _derivatives(self, record: AssignmentRecord, device: VirtualDevice) -> Iterator[float]:
        theta, layout = self.job.state.theta, self.job.manifest.layout
        for task in map(DirectionTask.from_message, record.tasks):
            directions = self.job.header.directions_of(layout.block(task.block))
            for _, values in self._engine.derivatives(theta, directions, task, device.training):
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is counted as unusable
                    sent = values.astype(np.float32).tolist()
                yield from sent
