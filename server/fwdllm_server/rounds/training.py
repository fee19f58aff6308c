"""A job that runs: its specification, its model and the newest version of θ."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import structlog
from sqlalchemy import Connection

from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.protocol import GENERATOR_2, GENERATOR_VERSION, NOISED_SUMS, SECURE_AGGREGATION
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import Run
from fwdllm_server.algorithm.auto import direction_shares
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import DevicesSection
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.store import ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.jobs import JobRecord

_log = structlog.get_logger()


@dataclass
class TrainingJob:
    """One running job; ``state`` is θ at the newest committed version.

    While devices' feature sums initialise the head, ``head_uninitialised`` is true: features are then computed with
    ``state``, and its header stays here. Where devices are simulated nobody ``masks``: a sum is that of what they would
    have masked.
    """

    id: str
    name: str
    spec: JobSpec
    manifest: Manifest
    manifest_sha256: str
    run: Run
    state: ModelState
    head_uninitialised: bool = False
    masks: bool = True

    @property
    def header(self) -> RunHeader:
        """What stays the same through the run."""
        return self.state.header

    @property
    def needs(self) -> DevicesSection:
        """What a device must have to take part: what the job says, and that it can do what the run needs."""
        needs = self.spec.devices
        more = []
        if self.header.generator_version != GENERATOR_VERSION:
            more.append(GENERATOR_2)
        if self.spec.privacy.secure_aggregation:
            more += [SECURE_AGGREGATION, *([NOISED_SUMS] if self.spec.privacy.budget else [])]
        return needs.model_copy(update={"capabilities": [*needs.capabilities, *more]}) if more else needs

    def expiry(self, phase_since: float, now: float) -> float:
        """Return when an assignment expires that has made progress ``now``, in a phase that began at ``phase_since``.

        Feature sums and masked scalars are sent once, at the end: their assignments have no earlier sign of progress.
        All are seconds since 1970.
        """
        if self.head_uninitialised or self.spec.privacy.secure_aggregation:
            return phase_since + self.spec.rounds.deadline_s
        return now + self.spec.rounds.assignment_s

    def go_on_from(self, state: ModelState) -> None:
        """Continue from a committed version."""
        self.state, self.head_uninitialised = state, False

    def catch_up(self, connection: Connection) -> None:
        """Replay what another coordinator has committed, unless the head is uninitialised."""
        self.replay(self.news(connection))

    def news(self, connection: Connection) -> Sequence[bytes]:
        """Return the ledger's entries since this version; none while the head is uninitialised."""
        return [] if self.head_uninitialised else ledger.entries(connection, self.id, after=self.state.version)

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
            state = _headless(spec, manifest, artifacts, record)
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
            head_uninitialised=record.header is None,
        )


def _headless(spec: JobSpec, manifest: Manifest, artifacts: ArtifactStore, record: JobRecord) -> ModelState:
    assert record.headless_sha256 is not None
    theta = np.frombuffer(artifacts.get(record.headless_sha256), dtype="<f4").astype(np.float32)
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
