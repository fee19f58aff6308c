"""Simulate a job from its file to its last round. An interrupted simulation continues from its last checkpoint."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fwdllm_client.data import Dataset, Source
from fwdllm_client.engine import Engine
from fwdllm_common.errors import JobFailedError
from fwdllm_common.files import make_folder
from fwdllm_common.layout import Float32Vector
from fwdllm_common.lock import locked
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.accountant import check_accountant
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.adoption import adopt, save_prepared
from fwdllm_server.preparation.evaluation import HeldOutEvaluator, check_held_out, held_out_source, held_out_texts
from fwdllm_server.preparation.job_file import read_job
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model
from fwdllm_server.rounds import diverged
from fwdllm_server.rounds.fleet import drive
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.simulation.compute import Compute
from fwdllm_server.simulation.cost import PassCounter
from fwdllm_server.simulation.curve import Curve, Point
from fwdllm_server.simulation.export import export_model_of
from fwdllm_server.simulation.fleet import SimulatedFleet
from fwdllm_server.simulation.population import Population, VirtualDevice
from fwdllm_server.simulation.running import run_to_end
from fwdllm_server.simulation.setup import begin_folder, check_data, check_same
from fwdllm_server.simulation.store import DATABASE, JOB_ID, SimulationStore
from fwdllm_server.store import job_devices, jobs, ledger, rounds
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.jobs import JobRecord, JobState
from fwdllm_server.store.rounds import Phase
from fwdllm_server.tasks import perplexity, task_named
from fwdllm_server.tracking.tracking import FOLDER, Tracking, check_trackers

CHECKPOINT_S = 5.0
"""Real seconds between two checkpoints. A run that is killed repeats at most about as much work."""
_MAX_CACHE_BYTES = 1 << 34


@dataclass(frozen=True)
class Outcome:
    """The result of a run, beside its curve; ``message`` says why it ended early, if it did."""

    rounds_committed: int
    rounds_abandoned: int
    scalars_repeated: int
    scalars_late: int
    scalars_unusable: int
    theta_digest: str
    message: str


class Simulation:
    """A job on a simulated population, stored in ``folder``. Opening the folder again continues the simulation.

    After an error, the simulation must be opened again.

    :param data: the devices' rows, which ``population`` divides among them.
    :param users: the user of each row.
    :param threads: threads of the engine; 0 means one per core.
    :param model: :attr:`bundle` of a simulation with the same model, PEFT method, seed and data. It is copied instead
        of being exported again.
    :raises BadInputError: the job file or the data is invalid, or the folder contains another simulation.
    :raises BusyError: another process uses the folder.
    :raises StorageError: the folder cannot be written.
    """

    def __init__(
        self,
        spec_toml: str,
        base_folder: Path,
        data: Source,
        population: Population,
        folder: Path,
        users: Sequence[str] | None = None,
        threads: int = 0,
        model: JobFolder | None = None,
    ) -> None:
        self._spec = read_job(spec_toml, base_folder)
        self._population = population
        self._model = JobFolder(folder / "model")
        if not (folder / DATABASE).exists():
            check_trackers(self._spec.tracking)
            check_accountant(self._spec.privacy)
            check_held_out(self._spec, base_folder)
            check_data(self._spec, data, population, users is not None)
            begin_folder(folder)
        with ExitStack() as opened:
            busy = f"another process simulates in {folder}"
            opened.enter_context(locked(folder / "lock", busy, "wait for it, or choose another folder"))
            self._store = SimulationStore(folder / DATABASE)
            opened.callback(self._store.close)
            self._artifacts = ArtifactStore(folder / "artifacts")
            is_new = self._record() is None
            if is_new:
                self._prepare(spec_toml, base_folder, model)
            record = self._required_record()
            with self._store.transaction() as connection:
                self._job = TrainingJob.load(connection, self._artifacts, record)
            self._spec = self._job.spec  # as it was resolved when the simulation began
            dataset = Dataset.load(data, self._model.bundle / self._job.manifest.tokenizer.name, self._job.manifest)
            users = None if users is None else [users[record] for record in dataset.records.tolist()]
            self._devices = population.draw(dataset, self._job.manifest.labels, users)
            if is_new:
                self._store.enrol(self._devices)
            check_same(self._store, folder, (record.spec_toml, spec_toml), population, dataset, users, is_new)
            self._store.checkpoint()
            self._cost = PassCounter(self._job.manifest, dataset, self._job.header.directions.run_key)
            cache = self._model.path / "cache"
            self._engine = opened.enter_context(self._open_engine(dataset, cache / "devices", threads))
            self._evaluator = HeldOutEvaluator(
                self._spec, base_folder, self._model.bundle, self._job.manifest, cache / "held-out"
            )
            self._tracking = Tracking(
                self._spec.tracking, folder / FOLDER, task_named(self._spec.model.task).metrics[0]
            )
            opened.callback(self._tracking.close)
            self._curve = Curve(self._store, folder / "curve.json")
            self._checkpoint_at = 0.0
            self._closing = opened.pop_all()

    @property
    def spec(self) -> JobSpec:
        """The job's specification."""
        return self._spec

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model."""
        return self._job.manifest

    @property
    def state(self) -> ModelState:
        """The newest version of the model."""
        return self._job.state

    @property
    def theta(self) -> Float32Vector:
        """θ at the newest version, float32 ``[d]``."""
        return self._job.state.theta

    @property
    def bundle(self) -> JobFolder:
        """The folder of the exported model."""
        return self._model

    @property
    def devices(self) -> Sequence[VirtualDevice]:
        """The simulated devices."""
        return self._devices

    @property
    def points(self) -> Sequence[Point]:
        """The learning curve so far."""
        return self._curve.points

    @property
    def outcome(self) -> Outcome:
        """The result of the run so far."""
        record = self._required_record()
        with self._store.transaction() as connection:
            abandoned = rounds.count_in(connection, JOB_ID, Phase.ABANDONED)
        return Outcome(
            rounds_committed=self._job.state.version,
            rounds_abandoned=abandoned,
            scalars_repeated=record.scalars_repeated,
            scalars_late=record.scalars_late,
            scalars_unusable=record.scalars_unusable,
            theta_digest=self._job.state.digest.hex(),
            message=record.message,
        )

    def ledger(self) -> Sequence[bytes]:
        """Return every committed entry of the ledger, oldest first."""
        with self._store.transaction() as connection:
            return ledger.entries(connection, JOB_ID, after=0)

    def export(self, out: Path) -> None:
        """Write the adapter of the version to export to the folder ``out``, which is replaced.

        :raises StorageError: the folder cannot be written.
        """
        with self._store.transaction() as connection:
            state, layout = self._job.best(connection, self._artifacts), self._job.manifest.layout
            command = f"fwdllm-server simulate job.toml --data … --devices {len(self._devices)} --out …"
            export_model_of(connection, self._required_record(), self._model, layout, state, out, command)

    def run(
        self, report: Callable[[Point], None], committed: Callable[[int], None] = lambda _: None
    ) -> Sequence[Point]:
        """Run to the last round. Return all points of the curve, including those of earlier runs.

        If this thread runs an event loop, as in a notebook, it waits, and ``report`` is called in another thread.

        :param report: called with each new point. It may raise :class:`asyncio.CancelledError` to interrupt the run.
        :param committed: called with each new version, after its point, if it has one. It may do the same.
        :raises JobFailedError: the model has diverged, too many rounds were abandoned, or too few devices are present.
        :raises KeyboardInterrupt: Ctrl-C was pressed. The next run continues from there.
        """
        run_to_end(self._run(report, committed))
        record = self._required_record()
        if record.state == JobState.FAILED:
            raise JobFailedError(f"job {record.name} failed: {record.message}")
        return self._curve.points

    async def _run(self, report: Callable[[Point], None], publish: Callable[[int], None]) -> None:
        presence = Presence(float("inf"))  # the fleet removes absent devices itself

        def rest() -> None:
            if time.monotonic() >= self._checkpoint_at:
                self._checkpoint(fleet)

        compute = Compute(self._job, self._population, self._devices, self._engine, self._cost)
        fleet = SimulatedFleet(self._store, presence, compute, rest)
        self._restore(fleet)

        async def committed(state: ModelState) -> None:
            if self._spec.rounds.evaluates(state.version):
                report(self._evaluate(state, fleet.now))
            publish(state.version)

        try:
            if self._curve.version < 0 and not self._job.head_uninitialised:
                await committed(self._job.state)
            await fleet.catch_up()
            if self._required_record().state in (JobState.PREPARING, JobState.RUNNING):
                machine = RoundMachine(self._store, self._artifacts, presence, self._job)
                await drive(machine, fleet, committed)
        except asyncio.CancelledError:
            self._checkpoint(fleet)
            raise
        self._checkpoint(fleet)

    def _checkpoint(self, fleet: SimulatedFleet) -> None:
        self._store.keep("fleet", fleet.to_json().encode())
        self._store.keep("cost", self._cost.to_bytes())
        self._store.checkpoint()
        self._curve.publish()
        self._checkpoint_at = time.monotonic() + CHECKPOINT_S

    def _restore(self, fleet: SimulatedFleet) -> None:
        stands, cost = self._store.fact("fleet"), self._store.fact("cost")
        if stands is not None and cost is not None:
            fleet.restore(stands.decode())
            self._cost.restore(cost)
        self._curve.publish()

    def _evaluate(self, state: ModelState, now: float) -> Point:
        record, task = self._evaluator.evaluate(state.version, state.theta), task_named(self._spec.model.task)
        if found := diverged.absurd_loss(record):
            raise JobFailedError(f"training has diverged: {found}; lower the learning rates")
        with self._store.transaction() as connection:
            ledger.add_evaluation(connection, JOB_ID, record)
            _, directions = ledger.totals(connection, JOB_ID)
            spent = job_devices.total(connection, JOB_ID)
        point = Point(
            version=record.version,
            accuracy=record.accuracy,
            loss=record.loss,
            directions=directions,
            example_passes=spent.example_passes,
            device_seconds=spent.seconds,
            seconds=now,
            bytes_up=spent.bytes_sent,
            bytes_down=spent.bytes_received,
            exact_match=record.exact_match,
            metric=task.metrics[0],
            perplexity=perplexity(record.loss) if task.has_perplexity else None,
            metric_beside=task.metrics[1] if len(task.metrics) > 1 else Point.metric_beside,
        )
        self._curve.add(point)
        self._tracking.evaluated(record)
        return point

    def _record(self) -> JobRecord | None:
        with self._store.transaction() as connection:
            return jobs.get(connection, JOB_ID)

    def _required_record(self) -> JobRecord:
        record = self._record()
        assert record is not None
        return record

    def _prepare(self, spec_toml: str, base_folder: Path, model: JobFolder | None) -> None:
        if model is not None:
            shutil.copytree(model.path, self._model.path)
        else:
            source = self._spec.model.resolved_source(base_folder)
            texts, held_out = held_out_texts(self._spec, base_folder), held_out_source(self._spec, base_folder)
            export_model(self._spec, source, self._model, texts, held_out)
        prepared = adopt(self._spec, self._model, self._artifacts)
        with self._store.transaction() as connection:
            jobs.add(connection, JOB_ID, self._spec, spec_toml, base_folder, 0.0)
            save_prepared(connection, self._artifacts, JOB_ID, prepared)

    def _open_engine(self, dataset: Dataset, cache: Path, threads: int) -> Engine:
        make_folder(cache)
        limit = min(_MAX_CACHE_BYTES, shutil.disk_usage(cache).free // 2)
        return Engine(self._model.bundle, self._job.manifest, dataset, cache, threads, limit)

    def close(self) -> None:
        """Close the store and the engine."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
