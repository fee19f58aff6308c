"""The files of a job's model: each is kept as an artifact, for devices, and in the job's folder, for the coordinator.

A file that is damaged or missing in one place is restored from the other. Where both are damaged, or both are hard
links to one file, the model is exported again, which gives the same bytes with the same libraries.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from fwdllm_common.errors import FwdllmError, IntegrityError, StorageError
from fwdllm_common.files import make_folder
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.adoption import prepared_in
from fwdllm_server.preparation.evaluation import held_out_source, held_out_texts
from fwdllm_server.preparation.export_process import export_in_process
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.store import jobs
from fwdllm_server.store.artifacts import ArtifactStore, is_whole
from fwdllm_server.store.database import reading

_log = structlog.get_logger()


@dataclass(frozen=True)
class JobFiles:
    """The files that a manifest names and the ``first_version`` of θ, by SHA-256."""

    artifacts: ArtifactStore
    folder: JobFolder
    spec: JobSpec
    manifest_sha256: str
    first_version: str

    async def make_whole(self, base_folder: Path) -> None:
        """Restore the files that are damaged or missing; relative paths in the job file start from ``base_folder``.

        :raises IntegrityError: they cannot be restored; the message says what to do.
        :raises StorageError: the disk cannot be written.
        """
        damaged = await asyncio.to_thread(self._restore)
        if not damaged:
            return
        _log.warning("files are damaged or missing: exporting the model again", job=self.spec.job.name, files=damaged)
        why = "exporting the model again gives other files"
        again = JobFolder(self.folder.path.with_name(f"{self.folder.path.name}.again"))
        try:
            texts = await asyncio.to_thread(held_out_texts, self.spec, base_folder)
            source, held_out = self.spec.model.resolved_source(base_folder), held_out_source(self.spec, base_folder)
            await export_in_process(self.spec, source, again, texts, held_out)
            await asyncio.to_thread(JobFiles._restore, self._in(again))
            damaged = await asyncio.to_thread(self._restore)
        except StorageError:
            raise
        except FwdllmError as error:
            why = f"the model cannot be exported again: {error}"
        finally:
            await asyncio.to_thread(shutil.rmtree, again.path, ignore_errors=True)
        if damaged:
            raise IntegrityError(
                f"{', '.join(damaged)} of the model: damaged or missing among the artifacts and in {self.folder.path}, "
                f"and {why}; restore both from a backup and resume the job"
            )

    def _in(self, folder: JobFolder) -> JobFiles:
        return JobFiles(self.artifacts, folder, self.spec, self.manifest_sha256, self.first_version)

    def _restore(self) -> Sequence[str]:
        """Restore each file from an undamaged copy; return the names of those that have none."""
        make_folder(self.folder.bundle)
        if not self._restore_file(self.manifest_sha256, MANIFEST_FILE):
            return [MANIFEST_FILE]
        manifest = Manifest.from_bytes(self.artifacts.get(self.manifest_sha256))
        damaged = [file.name for file in manifest.files if not self._restore_file(file.sha256, file.name)]
        if not damaged:
            self._restore_first_version()
        return damaged

    def _restore_file(self, sha256: str, name: str) -> bool:
        artifact, copy = self.artifacts.path(sha256), self.folder.bundle / name
        whole = is_whole(artifact, sha256)
        if artifact.exists() and copy.exists() and artifact.samefile(copy):
            return whole
        copy_whole = is_whole(copy, sha256)
        if whole and not copy_whole:
            self.artifacts.give(sha256, copy)
        elif copy_whole and not whole:
            self.artifacts.put_file(copy)
        return whole or copy_whole

    def _restore_first_version(self) -> None:
        """Restore the first version if the export still gives it; otherwise a newer snapshot may replace it."""
        if is_whole(self.artifacts.path(self.first_version), self.first_version):
            return
        try:
            data = prepared_in(self.spec, self.folder).first_version
        except (OSError, ValueError, EOFError) as error:
            _log.warning("first version not restored", job=self.spec.job.name, reason=str(error))
            return
        if hashlib.sha256(data).hexdigest() == self.first_version:
            self.artifacts.put(data)


def files_of_jobs(database_url: str, artifacts: ArtifactStore) -> tuple[int, list[str]]:
    """Return the number of jobs with artifacts, and a line for each artifact that is missing.

    The database is only read.

    :raises StorageError: the database cannot be read.
    """
    with reading(database_url) as connection:
        wanted = jobs.artifacts(connection)
    missing = []
    for name, sha256s in wanted:
        absent = [sha256 for sha256 in sha256s if not artifacts.path(sha256).is_file()]
        missing += [f"{sha256}, which job {name} begins with, is missing" for sha256 in absent]
        if not absent:
            missing += _missing_of(name, sha256s[0], artifacts)
    return len(wanted), missing


def _missing_of(job_name: str, manifest_sha256: str, artifacts: ArtifactStore) -> list[str]:
    try:
        manifest = Manifest.from_bytes(artifacts.get(manifest_sha256))
    except FwdllmError:  # damaged: reported by the caller's check of the artifacts
        return []
    gone = [file for file in manifest.files if not artifacts.path(file.sha256).is_file()]
    return [f"{file.name} of job {job_name} ({file.sha256}) is missing" for file in gone]
