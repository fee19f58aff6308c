"""A coordinator without a network: store, round machine, a clock to advance by hand, and devices that are told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.tiny_job import LABELS, add_tiny_job, load_job
from sqlalchemy import Connection, insert, select

from fwdllm.v1 import device_pb2
from fwdllm.v1.conditions_pb2 import HOLD_UNPLUGGED, Conditions
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.packing import halves
from fwdllm_common.protocol import GENERATOR_2, NOISED_SUMS, SECURE_AGGREGATION
from fwdllm_server.rounds import aggregation_messages, reporting
from fwdllm_server.rounds.context import Step
from fwdllm_server.rounds.delivery import fetch, take_back
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence, Present
from fwdllm_server.rounds.reporting import Report
from fwdllm_server.store import assignments, jobs, ledger, rounds, schema
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.assignments import AssignmentRecord
from fwdllm_server.store.database import Database
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.store.ledger import EvaluationRecord
from fwdllm_server.store.rounds import Phase, RoundRecord

JOB = "job1"


def derivative(seed: int) -> float:
    """What every device measures: some number from −1 to 1 that only the seed decides."""
    return (seed * 2654435761 >> 5) % 4001 / 2000 - 1


class Rig:
    """One job's rounds; every method that touches the store is one transaction, as in the coordinator."""

    def __init__(self, database: Database, artifacts: ArtifactStore, now: float = 1000.0) -> None:
        self.database = database
        self.artifacts = artifacts
        self.now = now
        self.presence = Presence(window_s=1e9)
        self.job = load_job(database, artifacts, JOB)
        self.machine = RoundMachine(database, artifacts, self.presence, self.job)

    @classmethod
    def create(cls, folder: Path, toml: str, devices: Iterable[str] = ("a", "b", "c")) -> "Rig":
        database = Database(f"sqlite:///{folder / 'fwdllm.db'}")
        artifacts = ArtifactStore(folder / "artifacts")
        add_tiny_job(database, artifacts, toml, JOB)
        add_devices(database, devices)
        return cls(database, artifacts)

    def settle(self) -> Step:
        """Advance until the machine waits or the job has ended."""
        step = self.machine.advance(self.now)
        while step.moved and not step.job_ended:
            step = self.machine.advance(self.now)
        return step

    def later(self, seconds: float) -> Step:
        """Let time pass without news of anyone."""
        self.now += seconds
        return self.settle()

    def check_in(self, *devices: str) -> list[AssignmentRecord]:
        """The devices check in; returns what those get that have work."""
        return [found for device in devices if (found := self._check_in(device))]

    def _check_in(self, device: str) -> AssignmentRecord | None:
        with self.database.transaction() as connection:
            work = [found for found in assignments.counting_of_device(connection, device) if found.open]
            if work:
                fetch(connection, work[0], self.job, self.now)
                return assignments.get(connection, work[0].id)
        able = frozenset((GENERATOR_2, SECURE_AGGREGATION, NOISED_SUMS))
        self.presence.seen(Present(device, self.now, frozenset(LABELS), able))
        return None

    def hold(self, device: str) -> None:
        """The device checks in and says that it does not work now."""
        request = device_pb2.CheckInRequest(conditions=Conditions(holds=[HOLD_UNPLUGGED]))
        with self.database.transaction() as connection:
            take_back(connection, device, request, {JOB: self.job})
        self.presence.leave(device)

    def report(
        self,
        assignment_id: str,
        derivatives: Sequence[float],
        first_index: int = 0,
        usage: device_pb2.ResourceUsage | None = None,
    ) -> device_pb2.ReportResponse:
        request = device_pb2.ReportRequest(
            assignment_id=assignment_id, derivatives=derivatives, first_index=first_index, usage=usage
        )
        with self.database.transaction() as connection:
            assignment = assignments.get(connection, assignment_id)
            assert assignment is not None
            report = Report(assignment, request, self.job.spec.rounds.assignment_s)
            return reporting.record(connection, [report], self.now)[0]

    def report_packed(
        self, assignment_id: str, derivatives: Sequence[float], first_index: int = 0
    ) -> device_pb2.ReportResponse:
        """Report scalars of orthogonal directions."""
        request = device_pb2.ReportRequest(
            assignment_id=assignment_id, halves=halves(derivatives), first_index=first_index
        )
        with self.database.transaction() as connection:
            assignment = assignments.get(connection, assignment_id)
            assert assignment is not None
            report = Report(assignment, request, self.job.spec.rounds.assignment_s)
            return reporting.record(connection, [report], self.now)[0]

    def fetched(self, device: str) -> device_pb2.Assignment | None:
        """What a device gets that asks for its work again."""
        with self.database.transaction() as connection:
            work = [found for found in assignments.counting_of_device(connection, device) if found.open]
            return fetch(connection, work[0], self.job, self.now) if work else None

    def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
        """A device sends a message of secure aggregation."""
        with self.database.transaction() as connection:
            assignment = assignments.get(connection, request.assignment_id)
            assert assignment is not None
            return aggregation_messages.take(connection, assignment, request, self.now)

    def finish(self, work: AssignmentRecord) -> device_pb2.ReportResponse:
        """Report everything that an assignment asks for."""
        return self.report(work.id, [derivative(seed) for seed in work.seeds])

    def begin_round(self, *devices: str) -> list[AssignmentRecord]:
        """The devices check in, the round selects them and they fetch their assignments."""
        self.check_in(*devices)
        self.settle()
        work = self.check_in(*devices)
        self.settle()
        return work

    def evaluate(self) -> None:
        """What the evaluator beside the machine adds for the newest version."""
        with self.database.transaction() as connection:
            ledger.add_evaluation(connection, JOB, EvaluationRecord(self.job.state.version, 0.5, 0.7, 10))

    @property
    def round(self) -> RoundRecord:
        with self.database.transaction() as connection:
            record = rounds.latest(connection, JOB)
        assert record is not None
        return record

    @property
    def record(self) -> JobRecord:
        with self.database.transaction() as connection:
            record = jobs.get(connection, JOB)
        assert record is not None
        return record

    def work_of_round(self, number: int | None = None) -> list[AssignmentRecord]:
        with self.database.transaction() as connection:
            return list(assignments.of_round(connection, JOB, number or self.round_number(connection)))

    @staticmethod
    def round_number(connection: Connection) -> int:
        record = rounds.latest(connection, JOB)
        assert record is not None
        return record.number

    def phases(self) -> list[str]:
        """The phase of each round so far."""
        with self.database.transaction() as connection:
            query = select(schema.rounds.c.phase).where(schema.rounds.c.job_id == JOB)
            return list(connection.execute(query.order_by(schema.rounds.c.number)).scalars())

    def ledger_bytes(self) -> list[bytes]:
        with self.database.transaction() as connection:
            return list(ledger.entries(connection, JOB, after=0))

    def ledger(self) -> list[LedgerEntry]:
        return [LedgerEntry.from_bytes(entry) for entry in self.ledger_bytes()]


@dataclass
class ScriptedDevice:
    """Measures :func:`derivative` and keeps what was not acknowledged, whatever becomes of the coordinator.

    Its journal has the scalars by their assignment and first index; what it packs comes in two messages.
    """

    name: str
    journal: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    packed: set[str] = field(default_factory=set)

    def work(self, rig: Rig) -> None:
        for assignment in rig.check_in(self.name):
            if assignment.packed:
                self.packed.add(assignment.id)
            else:
                self.journal[assignment.id, 0] = [derivative(seed) for seed in assignment.seeds]
            for start, seeds in assignment.packed.items():
                values = [derivative(seed) for seed in seeds]
                half = len(values) // 2
                self.journal[assignment.id, start] = values[:half]
                self.journal[assignment.id, start + half] = values[half:]
        for assignment_id, first in list(self.journal):
            send = rig.report_packed if assignment_id in self.packed else rig.report
            send(assignment_id, self.journal[assignment_id, first], first)
            del self.journal[assignment_id, first]


def run_to_end(rig: Rig, devices: Sequence[ScriptedDevice], mend: Callable[[Rig], Rig] | None = None) -> Rig:
    """Everyone works, second by second, until the job has ended.

    :param mend: makes a new rig of one whose coordinator has just died.
    """
    while True:
        try:
            if _one_second(rig, devices):
                return rig
        except CoordinatorDiedError:
            assert mend is not None
            rig = mend(rig)


def work_until(rig: Rig, devices: Sequence[ScriptedDevice], version: int) -> None:
    """Everyone works, second by second, until this version is committed; none is evaluated."""
    while rig.job.state.version < version:
        for device in devices:
            device.work(rig)
        rig.settle()
        rig.now += 1


def _one_second(rig: Rig, devices: Sequence[ScriptedDevice]) -> bool:
    for device in devices:
        device.work(rig)
    step = rig.settle()
    if not step.job_ended and rig.round.phase == Phase.COMMITTED:
        rig.evaluate()
    rig.now += 1
    assert rig.now < 2000, "the job does not come to its end"
    return rig.record.state != JobState.RUNNING


class CoordinatorDiedError(Exception):
    """The process ended between two statements."""


def add_devices(database: Database, names: Iterable[str]) -> None:
    with database.transaction() as connection:
        for name in names:
            connection.execute(
                insert(schema.devices).values(
                    id=name, name=name, key_sha256=name, enrolled_at=0.0, training_examples=50
                )
            )
