from fwdllm.v1 import conditions_pb2 as _conditions_pb2
from fwdllm.v1 import ledger_pb2 as _ledger_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("token_secret", "certificate_request")
    TOKEN_SECRET_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    token_secret: str
    certificate_request: bytes
    def __init__(self, token_secret: _Optional[str] = ..., certificate_request: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("device_id", "certificate", "ca_certificate", "expires_unix_s", "device_address")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    certificate: bytes
    ca_certificate: bytes
    expires_unix_s: int
    device_address: str
    def __init__(self, device_id: _Optional[str] = ..., certificate: _Optional[bytes] = ..., ca_certificate: _Optional[bytes] = ..., expires_unix_s: _Optional[int] = ..., device_address: _Optional[str] = ...) -> None: ...

class RenewCertificateRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewCertificateResponse(_message.Message):
    __slots__ = ("certificate", "expires_unix_s")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    expires_unix_s: int
    def __init__(self, certificate: _Optional[bytes] = ..., expires_unix_s: _Optional[int] = ...) -> None: ...

class ProtocolVersion(_message.Message):
    __slots__ = ("major", "minor")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ...) -> None: ...

class CheckInWindow(_message.Message):
    __slots__ = ("min_ms", "max_ms")
    MIN_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    min_ms: int
    max_ms: int
    def __init__(self, min_ms: _Optional[int] = ..., max_ms: _Optional[int] = ...) -> None: ...

class CheckInRequest(_message.Message):
    __slots__ = ("protocol", "generator_version", "capabilities", "labels", "training_examples", "validation_examples", "memory_bytes", "software", "conditions", "jobs", "task", "failures")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    protocol: ProtocolVersion
    generator_version: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    training_examples: int
    validation_examples: int
    memory_bytes: int
    software: str
    conditions: _conditions_pb2.Conditions
    jobs: JobChoice
    task: str
    failures: _containers.RepeatedCompositeFieldContainer[AssignmentFailure]
    def __init__(self, protocol: _Optional[_Union[ProtocolVersion, _Mapping]] = ..., generator_version: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., training_examples: _Optional[int] = ..., validation_examples: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., software: _Optional[str] = ..., conditions: _Optional[_Union[_conditions_pb2.Conditions, _Mapping]] = ..., jobs: _Optional[_Union[JobChoice, _Mapping]] = ..., task: _Optional[str] = ..., failures: _Optional[_Iterable[_Union[AssignmentFailure, _Mapping]]] = ...) -> None: ...

class AssignmentFailure(_message.Message):
    __slots__ = ("assignment_id", "code", "message")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    code: str
    message: str
    def __init__(self, assignment_id: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class JobChoice(_message.Message):
    __slots__ = ("only", "names")
    ONLY_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    only: bool
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, only: bool = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckInResponse(_message.Message):
    __slots__ = ("next", "assignment", "message", "open_assignments", "unix_s")
    NEXT_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OPEN_ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    next: CheckInWindow
    assignment: Assignment
    message: str
    open_assignments: _containers.RepeatedScalarFieldContainer[str]
    unix_s: int
    def __init__(self, next: _Optional[_Union[CheckInWindow, _Mapping]] = ..., assignment: _Optional[_Union[Assignment, _Mapping]] = ..., message: _Optional[str] = ..., open_assignments: _Optional[_Iterable[str]] = ..., unix_s: _Optional[int] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("assignment_id", "job_id", "job_name", "round", "header", "manifest_sha256", "version", "theta_digest", "deadline_ms", "directions", "evaluate", "feature_sums", "secure_aggregation", "mirror")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THETA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SUMS_FIELD_NUMBER: _ClassVar[int]
    SECURE_AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    job_id: str
    job_name: str
    round: int
    header: _ledger_pb2.RunHeader
    manifest_sha256: bytes
    version: int
    theta_digest: bytes
    deadline_ms: int
    directions: _containers.RepeatedCompositeFieldContainer[DirectionTask]
    evaluate: bool
    feature_sums: bool
    secure_aggregation: SecureAggregation
    mirror: str
    def __init__(self, assignment_id: _Optional[str] = ..., job_id: _Optional[str] = ..., job_name: _Optional[str] = ..., round: _Optional[int] = ..., header: _Optional[_Union[_ledger_pb2.RunHeader, _Mapping]] = ..., manifest_sha256: _Optional[bytes] = ..., version: _Optional[int] = ..., theta_digest: _Optional[bytes] = ..., deadline_ms: _Optional[int] = ..., directions: _Optional[_Iterable[_Union[DirectionTask, _Mapping]]] = ..., evaluate: bool = ..., feature_sums: bool = ..., secure_aggregation: _Optional[_Union[SecureAggregation, _Mapping]] = ..., mirror: _Optional[str] = ...) -> None: ...

class SecureAggregation(_message.Message):
    __slots__ = ("session", "member", "weight")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    member: int
    weight: int
    def __init__(self, session: _Optional[bytes] = ..., member: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class DirectionTask(_message.Message):
    __slots__ = ("block", "seeds", "epsilon", "batch_size", "central", "same_rows", "packed")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CENTRAL_FIELD_NUMBER: _ClassVar[int]
    SAME_ROWS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    block: str
    seeds: _containers.RepeatedCompositeFieldContainer[SeedRange]
    epsilon: float
    batch_size: int
    central: bool
    same_rows: bool
    packed: bool
    def __init__(self, block: _Optional[str] = ..., seeds: _Optional[_Iterable[_Union[SeedRange, _Mapping]]] = ..., epsilon: _Optional[float] = ..., batch_size: _Optional[int] = ..., central: bool = ..., same_rows: bool = ..., packed: bool = ...) -> None: ...

class SeedRange(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class GetArtifactRequest(_message.Message):
    __slots__ = ("sha256", "offset", "doubted")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DOUBTED_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    offset: int
    doubted: bool
    def __init__(self, sha256: _Optional[bytes] = ..., offset: _Optional[int] = ..., doubted: bool = ...) -> None: ...

class ArtifactChunk(_message.Message):
    __slots__ = ("data", "total_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    total_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class GetWeightsRequest(_message.Message):
    __slots__ = ("job_id", "version", "has_version", "held_version")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HAS_VERSION_FIELD_NUMBER: _ClassVar[int]
    HELD_VERSION_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    version: int
    has_version: bool
    held_version: int
    def __init__(self, job_id: _Optional[str] = ..., version: _Optional[int] = ..., has_version: bool = ..., held_version: _Optional[int] = ...) -> None: ...

class WeightsChunk(_message.Message):
    __slots__ = ("kind", "data")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[WeightsChunk.Kind]
        KIND_LEDGER: _ClassVar[WeightsChunk.Kind]
        KIND_SNAPSHOT: _ClassVar[WeightsChunk.Kind]
    KIND_UNSPECIFIED: WeightsChunk.Kind
    KIND_LEDGER: WeightsChunk.Kind
    KIND_SNAPSHOT: WeightsChunk.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: WeightsChunk.Kind
    data: bytes
    def __init__(self, kind: _Optional[_Union[WeightsChunk.Kind, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("assignment_id", "first_index", "derivatives", "evaluation", "usage", "halves")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    DERIVATIVES_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HALVES_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    first_index: int
    derivatives: _containers.RepeatedScalarFieldContainer[float]
    evaluation: EvaluationCounts
    usage: ResourceUsage
    halves: bytes
    def __init__(self, assignment_id: _Optional[str] = ..., first_index: _Optional[int] = ..., derivatives: _Optional[_Iterable[float]] = ..., evaluation: _Optional[_Union[EvaluationCounts, _Mapping]] = ..., usage: _Optional[_Union[ResourceUsage, _Mapping]] = ..., halves: _Optional[bytes] = ...) -> None: ...

class EvaluationCounts(_message.Message):
    __slots__ = ("correct", "total", "f1")
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    F1_FIELD_NUMBER: _ClassVar[int]
    correct: int
    total: int
    f1: float
    def __init__(self, correct: _Optional[int] = ..., total: _Optional[int] = ..., f1: _Optional[float] = ...) -> None: ...

class ResourceUsage(_message.Message):
    __slots__ = ("seconds", "example_passes", "peak_rss_bytes", "bytes_sent", "bytes_received", "artifact_bytes", "joules")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_PASSES_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    example_passes: float
    peak_rss_bytes: int
    bytes_sent: int
    bytes_received: int
    artifact_bytes: int
    joules: float
    def __init__(self, seconds: _Optional[float] = ..., example_passes: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., artifact_bytes: _Optional[int] = ..., joules: _Optional[float] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("assignment_id", "first_index", "accepted", "repeated", "late", "unusable", "stop", "next")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    first_index: int
    accepted: int
    repeated: int
    late: int
    unusable: int
    stop: bool
    next: CheckInWindow
    def __init__(self, assignment_id: _Optional[str] = ..., first_index: _Optional[int] = ..., accepted: _Optional[int] = ..., repeated: _Optional[int] = ..., late: _Optional[int] = ..., unusable: _Optional[int] = ..., stop: bool = ..., next: _Optional[_Union[CheckInWindow, _Mapping]] = ...) -> None: ...

class FeatureSumsRequest(_message.Message):
    __slots__ = ("assignment_id", "sums", "last", "usage")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    sums: _containers.RepeatedCompositeFieldContainer[ClassSum]
    last: bool
    usage: ResourceUsage
    def __init__(self, assignment_id: _Optional[str] = ..., sums: _Optional[_Iterable[_Union[ClassSum, _Mapping]]] = ..., last: bool = ..., usage: _Optional[_Union[ResourceUsage, _Mapping]] = ...) -> None: ...

class ClassSum(_message.Message):
    __slots__ = ("label", "rows", "features")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    label: int
    rows: int
    features: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, label: _Optional[int] = ..., rows: _Optional[int] = ..., features: _Optional[_Iterable[float]] = ...) -> None: ...

class FeatureSumsResponse(_message.Message):
    __slots__ = ("accepted", "repeated", "late", "unusable", "next")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    repeated: int
    late: int
    unusable: int
    next: CheckInWindow
    def __init__(self, accepted: _Optional[int] = ..., repeated: _Optional[int] = ..., late: _Optional[int] = ..., unusable: _Optional[int] = ..., next: _Optional[_Union[CheckInWindow, _Mapping]] = ...) -> None: ...

class AggregateRequest(_message.Message):
    __slots__ = ("assignment_id", "keys", "shares", "masked", "unmasking")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    UNMASKING_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    keys: MemberKeys
    shares: MemberShares
    masked: bytes
    unmasking: UnmaskingShares
    def __init__(self, assignment_id: _Optional[str] = ..., keys: _Optional[_Union[MemberKeys, _Mapping]] = ..., shares: _Optional[_Union[MemberShares, _Mapping]] = ..., masked: _Optional[bytes] = ..., unmasking: _Optional[_Union[UnmaskingShares, _Mapping]] = ...) -> None: ...

class AggregateResponse(_message.Message):
    __slots__ = ("over", "wait_ms", "keys", "shares", "survivors", "next")
    OVER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    over: bool
    wait_ms: int
    keys: PeerKeys
    shares: MemberShares
    survivors: Survivors
    next: CheckInWindow
    def __init__(self, over: bool = ..., wait_ms: _Optional[int] = ..., keys: _Optional[_Union[PeerKeys, _Mapping]] = ..., shares: _Optional[_Union[MemberShares, _Mapping]] = ..., survivors: _Optional[_Union[Survivors, _Mapping]] = ..., next: _Optional[_Union[CheckInWindow, _Mapping]] = ...) -> None: ...

class MemberKeys(_message.Message):
    __slots__ = ("sealing", "masking", "commitment")
    SEALING_FIELD_NUMBER: _ClassVar[int]
    MASKING_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    sealing: bytes
    masking: bytes
    commitment: bytes
    def __init__(self, sealing: _Optional[bytes] = ..., masking: _Optional[bytes] = ..., commitment: _Optional[bytes] = ...) -> None: ...

class PeerKeys(_message.Message):
    __slots__ = ("peers",)
    class PeersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: MemberKeys
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[MemberKeys, _Mapping]] = ...) -> None: ...
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.MessageMap[int, MemberKeys]
    def __init__(self, peers: _Optional[_Mapping[int, MemberKeys]] = ...) -> None: ...

class MemberShares(_message.Message):
    __slots__ = ("peers",)
    class PeersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.ScalarMap[int, bytes]
    def __init__(self, peers: _Optional[_Mapping[int, bytes]] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, peers: _Optional[_Iterable[int]] = ...) -> None: ...

class UnmaskingShares(_message.Message):
    __slots__ = ("self_masks", "masking_keys")
    class SelfMasksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    class MaskingKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    SELF_MASKS_FIELD_NUMBER: _ClassVar[int]
    MASKING_KEYS_FIELD_NUMBER: _ClassVar[int]
    self_masks: _containers.ScalarMap[int, bytes]
    masking_keys: _containers.ScalarMap[int, bytes]
    def __init__(self, self_masks: _Optional[_Mapping[int, bytes]] = ..., masking_keys: _Optional[_Mapping[int, bytes]] = ...) -> None: ...

class SelfTestRequest(_message.Message):
    __slots__ = ("assignment_id", "signal_to_noise")
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_TO_NOISE_FIELD_NUMBER: _ClassVar[int]
    assignment_id: str
    signal_to_noise: float
    def __init__(self, assignment_id: _Optional[str] = ..., signal_to_noise: _Optional[float] = ...) -> None: ...

class SelfTestResponse(_message.Message):
    __slots__ = ("usable", "next")
    USABLE_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    usable: bool
    next: CheckInWindow
    def __init__(self, usable: bool = ..., next: _Optional[_Union[CheckInWindow, _Mapping]] = ...) -> None: ...
