"""Open a version of a job's model in a server's store, which is only read; the server may be running."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.manifest import Manifest
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.job import JobSpec
from fwdllm_server.evaluation.trained import TrainedModel
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import jobs
from fwdllm_server.store.artifacts import ArtifactStore, is_whole
from fwdllm_server.store.database import reading, sqlite_file
from fwdllm_server.views.versions import chosen_version


@dataclass(frozen=True)
class StoredModel:
    """The ``model`` of the job with this id, and what the job runs."""

    job_id: str
    spec: JobSpec
    model: TrainedModel


@contextmanager
def read_store(home: ServerHome) -> Iterator[tuple[Connection, ArtifactStore]]:
    """Yield a connection to the database of a server's directory, and its artifacts.

    :raises BadInputError: there is no database.
    :raises StorageError: it cannot be read.
    """
    config = home.config()
    url = home.database_url(config)
    if (file := sqlite_file(url)) is not None and not file.exists():
        raise BadInputError(f"there is no {file}: the store is read where it is; run this on the coordinator's machine")
    artifacts = ArtifactStore(home.store_folder(config) / home.artifacts.name)
    with reading(url) as connection:
        yield connection, artifacts


@contextmanager
def stored_model(
    home: ServerHome, job: str, version: int | Literal["best"] | None, threads: int = 0
) -> Iterator[StoredModel]:
    """Yield the model of a job, named by its id or its name, at a version: of None that which ``export`` takes.

    :raises BadInputError: there is no such job or version, or the job has no model yet.
    :raises IntegrityError: a file of the model is damaged.
    :raises StorageError: the database cannot be read.
    """
    with read_store(home) as (connection, artifacts):
        record = jobs.find(connection, job)
        if record is None:
            raise BadInputError(f"no job {job!r}; 'fwdllm-server job list' shows them")
        if record.header is None:
            raise BadInputError(f"job {record.name} has no model yet ({record.state}); wait for its first round")
        training = TrainingJob.load(connection, artifacts, record, chosen_version(connection, record, version))
    with tempfile.TemporaryDirectory(dir=home.store_folder(home.config()), prefix=".evaluate.") as folder:
        _give_bundle(artifacts, training.manifest, Path(folder))
        model = TrainedModel(
            Path(folder), training.manifest, training.state.theta, training.state.version, threads=threads
        )
        yield StoredModel(record.id, training.spec, model)


def _give_bundle(artifacts: ArtifactStore, manifest: Manifest, folder: Path) -> None:
    for file in manifest.files:
        if not is_whole(artifacts.path(file.sha256), file.sha256):
            raise IntegrityError(
                f"artifact {file.sha256} ({file.name}) is missing or damaged; resume the job, which restores it"
            )
        artifacts.give(file.sha256, folder / file.name)
