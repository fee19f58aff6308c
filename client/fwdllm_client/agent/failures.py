"""Why an assignment cannot be done on this device, and what its coordinator is told of it.

The coordinator gets a code and, unless the fault is its own, one of a few fixed sentences: an error of ONNX Runtime or
of a reader may quote the owner's rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import FwdllmError, IntegrityError, NoRoomError, NotAllowedError
from fwdllm_common.protocol import MAX_FAILURE_MESSAGE

ENGINE, OUT_OF_MEMORY = "engine", "out-of-memory"
_TOLD: Mapping[str, str] = {
    ENGINE: "its ONNX Runtime fails on this model; the device's log says how",
    OUT_OF_MEMORY: "its memory does not suffice for this model",
    IntegrityError.code: "it was sent other bytes than were announced",
    NoRoomError.code: "the model is larger than the device's owner allows",
}
_OTHERWISE = "the model and the device's rows or software do not go together; the device's log says why"


class WorkFailedError(Exception):
    """An ``assignment`` that this device cannot do: ``cause`` is what went wrong, ``code`` names its kind."""

    def __init__(self, assignment: device_pb2.Assignment, cause: Exception) -> None:
        super().__init__(" ".join(f"{type(cause).__name__}: {cause}".split()))
        self.assignment = assignment
        self.cause = cause
        self.code = _code_of(cause)

    @property
    def why(self) -> str:
        """For the device's owner."""
        return str(self.cause) if isinstance(self.cause, FwdllmError) else str(self)

    def to_message(self) -> device_pb2.AssignmentFailure:
        """What the coordinator is told."""
        told = str(self.cause) if isinstance(self.cause, NotAllowedError) else _TOLD.get(self.code, _OTHERWISE)
        return device_pb2.AssignmentFailure(
            assignment_id=self.assignment.assignment_id, code=self.code, message=told[:MAX_FAILURE_MESSAGE]
        )


def _code_of(error: Exception) -> str:
    if isinstance(error, FwdllmError):
        return error.code
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else ENGINE
