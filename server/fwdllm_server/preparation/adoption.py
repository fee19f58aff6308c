"""Adoption of an exported model into the store: its files become artifacts, and the job can run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from fwdllm_common.layout import Float32Vector
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.auto import direction_shares
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.store import jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class PreparedModel:
    """The start of a run; where ``head_uninitialised``, devices' feature sums are still to initialise the head."""

    header: RunHeader
    manifest_sha256: str
    state: ModelState
    head_init: str
    head_uninitialised: bool = False

    @property
    def first_version(self) -> bytes:
        """The artifact of it: the snapshot of version 0, or θ without its head, little-endian float32 ``[d]``."""
        if self.head_uninitialised:
            return np.ascontiguousarray(self.state.theta, dtype="<f4").tobytes()
        return self.state.to_bytes()


def adopt(spec: JobSpec, folder: JobFolder, artifacts: ArtifactStore) -> PreparedModel:
    """Put the exported files of ``folder`` among the artifacts and return the start of the job's run.

    :raises StorageError: the disk is full or cannot be written.
    """
    data = (folder.bundle / MANIFEST_FILE).read_bytes()
    for file in Manifest.from_bytes(data).files:
        artifacts.put_file(folder.bundle / file.name)
    artifacts.put(data)
    return prepared_in(spec, folder)


def prepared_in(spec: JobSpec, folder: JobFolder) -> PreparedModel:
    """Read the start of a run from the exported files of ``folder``."""
    data = (folder.bundle / MANIFEST_FILE).read_bytes()
    manifest = Manifest.from_bytes(data)
    theta: Float32Vector = np.load(folder.initial_theta)
    header = run_header(spec, manifest.layout, theta, direction_shares(manifest))
    head_init = folder.head_init.read_text()
    return PreparedModel(
        header=header,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        state=ModelState.initial(header, manifest.layout, theta),
        head_init=head_init,
        head_uninitialised=head_init == "class-means",
    )


def save_prepared(connection: Connection, artifacts: ArtifactStore, job_id: str, prepared: PreparedModel) -> None:
    """Store version 0 and what all versions share. The job then runs, or waits for its head to be initialised.

    :raises StorageError: the disk is full or cannot be written.
    """
    sha256 = artifacts.put(prepared.first_version)
    if prepared.head_uninitialised:
        jobs.exported_without_head(connection, job_id, prepared.manifest_sha256, sha256, prepared.state.layout.size)
        return
    ledger.add_snapshot(connection, job_id, 0, sha256)
    jobs.prepared(
        connection,
        job_id,
        prepared.header.to_bytes(),
        prepared.manifest_sha256,
        prepared.head_init,
        prepared.state.layout.size,
    )
