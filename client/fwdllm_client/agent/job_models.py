"""The model of each job, which must stay the same for the life of the job."""

from __future__ import annotations

import json
from pathlib import Path

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import NotAllowedError
from fwdllm_common.files import write_atomically

MOST_JOBS = 256
"""Most jobs that are remembered; the oldest is forgotten first."""


class JobModels:
    """The hash of each job's model, kept in the file ``path`` across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = _read(path)

    def check(self, assignment: device_pb2.Assignment) -> None:
        """Check that the job's model is the known one, and remember that of a new job.

        :raises NotAllowedError: the job had another model before.
        :raises StorageError: the disk is full.
        """
        job, model = assignment.job_id, assignment.manifest_sha256.hex()
        known = self._known.get(job)
        if known is None:
            self._known = dict([*self._known.items(), (job, model)][-MOST_JOBS:])
            write_atomically(self._path, json.dumps(self._known).encode())
        elif known != model:
            raise NotAllowedError(f"job {assignment.job_name[:64]!r} has another model than when this device joined it")


def _read(path: Path) -> dict[str, str]:
    """Return the hashes by job; none if the file is missing or damaged."""
    try:
        return {str(job): str(model) for job, model in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
