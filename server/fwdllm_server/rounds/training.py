"""A job whose model is ready: what the phases of its rounds work with."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import ForwardGradient
from fwdllm_server.artifacts import ArtifactStore
from fwdllm_server.job import JobSpec
from fwdllm_server.rounds.presence import Presence
from fwdllm_server.store import ledger
from fwdllm_server.store.jobs import JobRecord
from fwdllm_server.store.rounds import RoundRecord
from fwdllm_server.toml_model import parse_toml


@dataclass
class TrainingJob:
    """One running job; ``state`` is θ at the newest committed version."""

    id: str
    name: str
    spec: JobSpec
    header: RunHeader
    manifest: Manifest
    manifest_sha256: str
    algorithm: ForwardGradient
    state: ModelState

    @classmethod
    def load(cls, connection: Connection, artifacts: ArtifactStore, record: JobRecord) -> TrainingJob:
        """A prepared job as the store knows it: the newest snapshot and the replay of the ledger after it."""
        assert record.header is not None
        assert record.manifest_sha256 is not None
        spec = parse_toml(record.spec_toml, JobSpec, record.name)
        header = RunHeader.from_bytes(record.header)
        manifest = Manifest.from_bytes(artifacts.get(record.manifest_sha256))
        snapshot = ledger.latest_snapshot(connection, record.id)
        assert snapshot is not None
        version, sha256 = snapshot
        state = ModelState.from_bytes(header, manifest.layout, artifacts.get(sha256))
        for entry in ledger.entries(connection, record.id, after=version):
            state.advance(LedgerEntry.from_bytes(entry))
        return cls(
            id=record.id,
            name=record.name,
            spec=spec,
            header=header,
            manifest=manifest,
            manifest_sha256=record.manifest_sha256,
            algorithm=ForwardGradient(spec, header, manifest.layout),
            state=state,
        )


@dataclass(frozen=True)
class RoundContext:
    """What a phase sees: its transaction, its job and round, the devices that are here, the artifacts and the time."""

    connection: Connection
    job: TrainingJob
    round: RoundRecord
    presence: Presence
    artifacts: ArtifactStore
    now: float


@dataclass(frozen=True)
class Step:
    """What a phase did: it moved the round on, or waits.

    A waiting phase is asked again when something happens, or after ``look_again_s``. ``state`` is the model after a
    commit, to be used once the transaction is on disk.
    """

    moved: bool
    look_again_s: float = 0.0
    state: ModelState | None = None
    job_ended: bool = False


MOVED = Step(moved=True)


def wait(look_again_s: float) -> Step:
    """Nothing to do yet."""
    return Step(moved=False, look_again_s=max(0.0, look_again_s))
