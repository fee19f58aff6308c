"""Versions, limits and machine-readable reasons of the wire contract (protos/fwdllm/v1)."""

from __future__ import annotations

from enum import StrEnum

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 5

GENERATOR_VERSION = 1
"""Version of the map from a seed to a direction. :mod:`fwdllm_common.directions` would load numpy, which an idle device
does without."""
ORTHOGONAL_GENERATOR_VERSION = 2
"""That of runs with orthogonal directions or weight decay; all others stay at 1, which older devices know."""
GENERATOR_2 = "generator-2"
"""Capability of a device that takes part in such runs."""

MAX_MESSAGE_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
MAX_SCALARS_PER_REPORT = 4096
MAX_PACKED_PER_REPORT = 1 << 16
MOST_PRIORITY = 1000

FEATURE_SUMS = "feature-sums"
"""Capability: the device's owner allows per-class sums of features (DESIGN §2, invariant 1)."""
SECURE_AGGREGATION = "secure-aggregation"
"""Capability: the device has what secure aggregation needs."""
MIN_CLASS_ROWS = 8
"""Fewest rows in such a sum. Devices leave smaller classes out, coordinators refuse them."""

MAX_FAILURES, MAX_FAILURE_CODE, MAX_FAILURE_MESSAGE = 16, 32, 300
"""Most failed assignments in a check-in, and most characters of a failure's code and message."""

REASON_KEY = "fwdllm-reason"
"""Key of the trailing metadata with the :class:`Reason` of a refusal."""

RETRY_AFTER_KEY = "fwdllm-retry-after-ms"
"""Key of the trailing metadata of a ``busy`` refusal: milliseconds after which to try again."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # No compression: gRPC decompresses a message before it checks its size, and a megabyte may become a gigabyte. The
    # first option refuses a compressed call but may decompress its message first; the second never decompresses.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
)


class Reason(StrEnum):
    """Reason for a refused call, for programs; the status details give it in words."""

    BAD_FIELD = "bad-field"
    BAD_TOKEN = "bad-token"  # noqa: S105 - a reason, not a secret
    NOT_ENROLLED = "not-enrolled"
    REVOKED = "revoked"
    PROTOCOL_VERSION = "protocol-version"
    GENERATOR_VERSION = "generator-version"
    UNKNOWN_LABEL = "unknown-label"
    UNKNOWN_TASK = "unknown-task"
    NOT_FOUND = "not-found"
    NOT_YOURS = "not-yours"
    WRONG_STATE = "wrong-state"
    STORAGE = "storage"
    BUSY = "busy"
    IDLE = "idle"
