"""θ on the device: updated to an assignment's version by replaying the ledger, or from a snapshot."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm_client.cache.held import note_job
from fwdllm_client.connection.retry import Retry
from fwdllm_client.connection.transport import Coordinator
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import make_folder, write_atomically
from fwdllm_common.layout import Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.replay import ModelState, theta_digest

_SPARE_BYTES = 1 << 20
"""Most bytes of a snapshot beside its vectors: names of blocks and framing."""

_log = structlog.get_logger()


class Weights:
    """The last state of each job: on disk in ``folder``, and in memory for the current job."""

    def __init__(self, folder: Path, coordinator: Coordinator, retry: Retry) -> None:
        self._folder = folder
        self._coordinator = coordinator
        self._retry = retry
        self._job = ""
        self._state: ModelState | None = None

    def at(self, assignment: device_pb2.Assignment, header: RunHeader, layout: Layout) -> ModelState:
        """Return the state at the assignment's version, with the announced hash.

        :raises IntegrityError: the layouts differ, or even a fresh snapshot has another hash.
        :raises StorageError: the disk is full.
        """
        if header.layout_digest != layout.digest:
            raise IntegrityError(
                f"job {assignment.job_name!r}: the model's layout is not the one that the run was started with; "
                "check the job on the coordinator"
            )
        held = self._held(assignment, header, layout)
        state = self._advanced(assignment, held, header, layout)
        if state is None and held is not None:
            _log.warning("local weights differ from the coordinator's, fetching all of them", job=assignment.job_name)
            state = self._advanced(assignment, None, header, layout)
        if state is None:
            raise IntegrityError(
                f"job {assignment.job_name!r}: the weights of version {assignment.version} from "
                f"{self._coordinator.address} do not have the announced hash {assignment.theta_digest.hex()}; "
                "they were not used; check the coordinator's ledger"
            )
        self._job, self._state = assignment.job_id, state
        return state

    def _held(self, assignment: device_pb2.Assignment, header: RunHeader, layout: Layout) -> ModelState | None:
        """Return the local state, unless it is newer than the assignment's version or of another run."""
        state, self._state = (self._state if self._job == assignment.job_id else None), None
        path = self._path(assignment.job_id)
        if state is None and path.exists():
            try:
                state = ModelState.from_bytes(header, layout, path.read_bytes())
            except (BadInputError, OSError) as error:
                _log.warning("local weights cannot be read, fetching all of them", path=str(path), cause=str(error))
        if state is None or state.header != header or state.version > assignment.version:
            return None
        return state

    def _advanced(
        self, assignment: device_pb2.Assignment, held: ModelState | None, header: RunHeader, layout: Layout
    ) -> ModelState | None:
        """Update ``held`` to the assignment's version and save it; return None if its hash is not the announced one."""
        state = held
        changed = state is None or state.version != assignment.version
        if state is not None and not changed:
            _log.debug("weights are current", job=assignment.job_name, version=state.version)
        if changed:
            limit = 12 * layout.size + _SPARE_BYTES  # theta and at most two moments, float32
            kind, data = self._retry.call(lambda: self._download(assignment, held, limit))
            _log.debug(
                "weights downloaded",
                job=assignment.job_name,
                held_version=None if held is None else held.version,
                version=assignment.version,
                kind=device_pb2.WeightsChunk.Kind.Name(kind).removeprefix("KIND_").lower(),
                bytes=len(data),
            )
            try:
                state = _applied(kind, data, held, header, layout)
            except (BadInputError, DecodeError, IntegrityError) as error:
                _log.warning("weights from the coordinator cannot be used", cause=str(error))
                return None
        if state is None or state.version != assignment.version or theta_digest(state.theta) != assignment.theta_digest:
            return None
        if changed:
            self._save(assignment, state)
        return state

    def _download(
        self, assignment: device_pb2.Assignment, held: ModelState | None, limit: int
    ) -> tuple[device_pb2.WeightsChunk.Kind, bytes]:
        request = device_pb2.GetWeightsRequest(
            job_id=assignment.job_id,
            version=assignment.version,
            has_version=held is not None,
            held_version=held.version if held is not None else 0,
        )
        kind = device_pb2.WeightsChunk.KIND_UNSPECIFIED
        data = bytearray()
        stream = self._coordinator.get_weights(request)
        for chunk in stream:
            kind = chunk.kind
            data += chunk.data
            if len(data) > limit:
                stream.cancel()
                raise IntegrityError(
                    f"job {assignment.job_name!r}: the coordinator at {self._coordinator.address} sends more than "
                    f"{limit} bytes of weights; check the job on the coordinator"
                )
        return kind, bytes(data)

    def _save(self, assignment: device_pb2.Assignment, state: ModelState) -> None:
        make_folder(self._folder)
        path = self._path(assignment.job_id)
        write_atomically(path, state.to_bytes())
        note_job(path, assignment)

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{sha256(job_id.encode()).hexdigest()}.weights"


def _applied(
    kind: device_pb2.WeightsChunk.Kind, data: bytes, held: ModelState | None, header: RunHeader, layout: Layout
) -> ModelState:
    if kind == device_pb2.WeightsChunk.KIND_SNAPSHOT:
        return ModelState.from_bytes(header, layout, data)
    if kind != device_pb2.WeightsChunk.KIND_LEDGER or held is None:
        raise BadInputError("neither a snapshot nor a ledger that follows the local version")
    for entry in ledger_pb2.LedgerSegment.FromString(data).entries:
        held.advance(LedgerEntry.from_message(entry))
    return held
