"""A job whose model is ready: what the phases of its rounds work with."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.protocol import GENERATOR_2, GENERATOR_VERSION
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import Run
from fwdllm_server.algorithm.auto import direction_shares
from fwdllm_server.config.job import DevicesSection, JobSpec
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.rounds.computing import Desk
from fwdllm_server.rounds.draw import draw
from fwdllm_server.rounds.failing import failing_devices
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.rounds.self_testing import noisy_devices
from fwdllm_server.store import assignments, efforts, ledger, locks, participation
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.store.rounds import RoundRecord

T = TypeVar("T")

_log = structlog.get_logger()


@dataclass
class TrainingJob:
    """One running job; ``state`` is θ at the newest committed version.

    While its head is being initialised the job ``is_draft``: ``state`` is then what features are computed with, and its
    header stays here.
    """

    id: str
    name: str
    spec: JobSpec
    manifest: Manifest
    manifest_sha256: str
    run: Run
    state: ModelState
    is_draft: bool = False

    @property
    def header(self) -> RunHeader:
        """What stays the same through the run."""
        return self.state.header

    @property
    def needs(self) -> DevicesSection:
        """What a device must have to take part: what the job says, and that it knows the run's generator."""
        needs = self.spec.devices
        if self.header.generator_version == GENERATOR_VERSION:
            return needs
        return needs.model_copy(update={"capabilities": [*needs.capabilities, GENERATOR_2]})

    def go_on_from(self, state: ModelState) -> None:
        """Continue from a committed version."""
        self.state, self.is_draft = state, False

    def catch_up(self, connection: Connection) -> None:
        """Replay what another coordinator has committed; a draft stays one."""
        self.replay(self.news(connection))

    def news(self, connection: Connection) -> Sequence[bytes]:
        """Return the ledger's entries since this version; none while the head is uninitialised."""
        return [] if self.is_draft else ledger.entries(connection, self.id, after=self.state.version)

    def replay(self, entries: Sequence[bytes]) -> None:
        """Go on from the version that these entries of the ledger lead to."""
        if entries:
            state = copy(self.state)
            for entry in entries:
                state.advance(LedgerEntry.from_bytes(entry))
            self.go_on_from(state)

    def best(self, connection: Connection, artifacts: ArtifactStore) -> ModelState:
        """Return the version to export: the one that the validation rows like best, or the newest without such rows."""
        version = ledger.best_version(connection, self.id)
        if version is None or version >= self.state.version:
            return self.state
        return _state_at(self.header, self.manifest, connection, artifacts, self.id, version)

    @classmethod
    def load(
        cls, connection: Connection, artifacts: ArtifactStore, record: JobRecord, version: int | None = None
    ) -> TrainingJob:
        """Return a job as the store knows it: its uninitialised model, or the newest snapshot and its replay.

        With a ``version`` it is as of that.
        """
        assert record.manifest_sha256 is not None
        spec = record.spec()
        manifest = Manifest.from_bytes(artifacts.get(record.manifest_sha256))
        if record.header is None:
            state = _draft(spec, manifest, artifacts, record)
        else:
            state = _state_at(RunHeader.from_bytes(record.header), manifest, connection, artifacts, record.id, version)
        return cls(
            id=record.id,
            name=record.name,
            spec=spec,
            manifest=manifest,
            manifest_sha256=record.manifest_sha256,
            run=Run(spec, state.header, manifest.layout, direction_shares(manifest)),
            state=state,
            is_draft=record.header is None,
        )


def _draft(spec: JobSpec, manifest: Manifest, artifacts: ArtifactStore, record: JobRecord) -> ModelState:
    assert record.draft_sha256 is not None
    theta = np.frombuffer(artifacts.get(record.draft_sha256), dtype="<f4").astype(np.float32)
    return ModelState.initial(
        run_header(spec, manifest.layout, theta, direction_shares(manifest)), manifest.layout, theta
    )


def _state_at(
    header: RunHeader,
    manifest: Manifest,
    connection: Connection,
    artifacts: ArtifactStore,
    job_id: str,
    wanted: int | None = None,
) -> ModelState:
    """Return a version, or the newest: the last snapshot before it and the replay of what follows."""
    found = [each for each in ledger.snapshots_of(connection, job_id) if wanted is None or each[0] <= wanted]
    for version, sha256 in found:
        try:
            data = artifacts.get(sha256)
        except (BadInputError, IntegrityError) as error:
            if version == found[-1][0]:
                raise
            _log.warning("snapshot not used: replaying from an older one", version=version, reason=str(error))
            continue
        state = ModelState.from_bytes(header, manifest.layout, data)
        break
    for entry in ledger.entries(connection, job_id, after=state.version, up_to=wanted):
        state.advance(LedgerEntry.from_bytes(entry))
    return state


@dataclass(frozen=True)
class RoundContext:
    """What a phase sees: its transaction, its job and round, the devices that are here, the artifacts and the time.

    With ``defer``, what takes long is not computed inside the transaction.
    """

    connection: Connection
    job: TrainingJob
    round: RoundRecord
    presence: Presence
    artifacts: ArtifactStore
    now: float
    desk: Desk
    defer: bool
    jobs: Callable[[], Mapping[str, TrainingJob]] = dict
    """All that run, by their ids."""

    def computed(self, what: Hashable, function: Callable[[], T]) -> T:
        """Return the result of a long computation that only reads its arguments; ``what`` names it within the round.

        :raises ComputationDue: it is to be done outside the transaction, and then this step again.
        """
        return self.desk.result((self.round.number, self.job.state.version, what), function, self.defer)

    def idle_devices(self, capability: str | None = None) -> list[str]:
        """Return the idle devices here that can take part, those with ``capability`` if one is named."""
        locks.choose_devices(self.connection)
        resting = self.resting_devices().keys()
        unwanted = assignments.busy_devices(self.connection) | self.noisy_devices() | self.failing_devices() | resting
        manifest, needs = self.job.manifest, self.job.needs
        here = self.presence.eligible(self.job.name, manifest.labels, self.now, capability, manifest.task, needs)
        idle = [device for device in here if device not in unwanted]
        if not needs.per_day:
            return idle
        worked = participation.today(self.connection, idle, self.now)
        return [device for device in idle if worked.get(device, 0) < needs.per_day]

    def draw(self, devices: Sequence[str]) -> list[str]:
        """At most ``max_devices`` of the devices: those that have worked least today, and of equals any."""
        size = self.job.spec.rounds.max_devices
        if len(devices) <= size:
            return list(devices)
        worked = participation.today(self.connection, devices, self.now)
        return draw(devices, size, worked, f"{self.job.header.directions.run_key}/{self.round.number}")

    def resting_devices(self) -> Mapping[str, float]:
        """Return the devices that sent nothing for their last assignments, and for how many seconds they rest."""
        return efforts.resting(self.connection, self.job.id, self.job.spec.rounds.accept_s, self.now)

    def noisy_devices(self) -> frozenset[str]:
        """Return the devices whose scalars are of no use to this job."""
        return noisy_devices(self.connection, self.job.id, self.now)

    def failing_devices(self) -> frozenset[str]:
        """Return the devices that have said that they cannot do this job."""
        return frozenset(failing_devices(self.connection, self.job.id, self.now))


@dataclass(frozen=True)
class Step:
    """What a phase did: it moved the round on, or waits.

    A waiting phase is asked again when something happens, or after ``look_again_s``. ``state`` is the model after a
    commit, to be used once the transaction is on disk. ``due`` is to be computed before the phase is asked again.
    """

    moved: bool
    look_again_s: float = 0.0
    state: ModelState | None = None
    job_ended: bool = False
    due: Callable[[], None] | None = None


MOVED = Step(moved=True)


def wait(look_again_s: float) -> Step:
    """Nothing to do yet."""
    return Step(moved=False, look_again_s=max(0.0, look_again_s))
