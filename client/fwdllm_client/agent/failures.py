"""Failures of assignments on this device, and the message about them to the coordinator.

The coordinator gets a code and one of a few fixed sentences, because an error of ONNX Runtime or of a reader may quote
the owner's rows. Only a refusal of what the coordinator itself has sent (not-allowed) is passed on in full.
"""

from __future__ import annotations

from collections.abc import Mapping

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import FwdllmError, IntegrityError, NoRoomError, NotAllowedError
from fwdllm_common.protocol import MAX_FAILURE_MESSAGE

ENGINE, OUT_OF_MEMORY = "engine", "out-of-memory"
_MESSAGES: Mapping[str, str] = {
    ENGINE: "its ONNX Runtime fails on this model; the device's log says how",
    OUT_OF_MEMORY: "its memory does not suffice for this model",
    IntegrityError.code: "it was sent other bytes than were announced",
    NoRoomError.code: "the model is larger than the device's owner allows",
}
_OTHER = "the model and the device's rows or software do not go together; the device's log says why"


class WorkFailedError(Exception):
    """The ``assignment`` cannot be done on this device; ``cause`` is the error, ``code`` names its kind."""

    def __init__(self, assignment: device_pb2.Assignment, cause: Exception) -> None:
        super().__init__(" ".join(f"{type(cause).__name__}: {cause}".split()))
        self.assignment = assignment
        self.cause = cause
        self.code = _code_of(cause)

    @property
    def why(self) -> str:
        """The reason, for the device's owner."""
        return str(self.cause) if isinstance(self.cause, FwdllmError) else str(self)

    def to_message(self) -> device_pb2.AssignmentFailure:
        """Return the wire message for the coordinator."""
        message = str(self.cause) if isinstance(self.cause, NotAllowedError) else _MESSAGES.get(self.code, _OTHER)
        return device_pb2.AssignmentFailure(
            assignment_id=self.assignment.assignment_id, code=self.code, message=message[:MAX_FAILURE_MESSAGE]
        )


def _code_of(error: Exception) -> str:
    if isinstance(error, FwdllmError):
        return error.code
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else ENGINE
