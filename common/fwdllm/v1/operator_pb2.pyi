from fwdllm.v1 import conditions_pb2 as _conditions_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_PREPARING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_DONE: _ClassVar[JobState]
    JOB_STATE_STOPPED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_PREPARING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_DONE: JobState
JOB_STATE_STOPPED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_PAUSED: JobState

class SubmitJobRequest(_message.Message):
    __slots__ = ("spec_toml", "base_folder")
    SPEC_TOML_FIELD_NUMBER: _ClassVar[int]
    BASE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    spec_toml: str
    base_folder: str
    def __init__(self, spec_toml: _Optional[str] = ..., base_folder: _Optional[str] = ...) -> None: ...

class SubmitJobResponse(_message.Message):
    __slots__ = ("job_id", "same_name")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SAME_NAME_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    same_name: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_id: _Optional[str] = ..., same_name: _Optional[_Iterable[str]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class SetJobPriorityRequest(_message.Message):
    __slots__ = ("job", "priority")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    job: str
    priority: int
    def __init__(self, job: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class ExtendJobRequest(_message.Message):
    __slots__ = ("job", "rounds")
    JOB_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    job: str
    rounds: int
    def __init__(self, job: _Optional[str] = ..., rounds: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "name", "state", "message", "round", "rounds_committed", "rounds_abandoned", "rounds_wanted", "directions", "example_passes", "device_seconds", "scalars_repeated", "scalars_late", "scalars_unusable", "initial_evaluation", "latest_evaluation", "best_evaluation", "head_init", "seconds_running", "seconds_left", "version", "theta_digest", "devices", "trainable_parameters", "priority", "same_name", "privacy", "privacy_budget")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_ABANDONED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_WANTED_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_PASSES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCALARS_REPEATED_FIELD_NUMBER: _ClassVar[int]
    SCALARS_LATE_FIELD_NUMBER: _ClassVar[int]
    SCALARS_UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    LATEST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    BEST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    HEAD_INIT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THETA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SAME_NAME_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    state: JobState
    message: str
    round: Round
    rounds_committed: int
    rounds_abandoned: int
    rounds_wanted: int
    directions: int
    example_passes: float
    device_seconds: float
    scalars_repeated: int
    scalars_late: int
    scalars_unusable: int
    initial_evaluation: Evaluation
    latest_evaluation: Evaluation
    best_evaluation: Evaluation
    head_init: str
    seconds_running: float
    seconds_left: float
    version: int
    theta_digest: bytes
    devices: _containers.RepeatedCompositeFieldContainer[DeviceUsage]
    trainable_parameters: int
    priority: int
    same_name: _containers.RepeatedScalarFieldContainer[str]
    privacy: str
    privacy_budget: PrivacyBudget
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., message: _Optional[str] = ..., round: _Optional[_Union[Round, _Mapping]] = ..., rounds_committed: _Optional[int] = ..., rounds_abandoned: _Optional[int] = ..., rounds_wanted: _Optional[int] = ..., directions: _Optional[int] = ..., example_passes: _Optional[float] = ..., device_seconds: _Optional[float] = ..., scalars_repeated: _Optional[int] = ..., scalars_late: _Optional[int] = ..., scalars_unusable: _Optional[int] = ..., initial_evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., latest_evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., best_evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., head_init: _Optional[str] = ..., seconds_running: _Optional[float] = ..., seconds_left: _Optional[float] = ..., version: _Optional[int] = ..., theta_digest: _Optional[bytes] = ..., devices: _Optional[_Iterable[_Union[DeviceUsage, _Mapping]]] = ..., trainable_parameters: _Optional[int] = ..., priority: _Optional[int] = ..., same_name: _Optional[_Iterable[str]] = ..., privacy: _Optional[str] = ..., privacy_budget: _Optional[_Union[PrivacyBudget, _Mapping]] = ...) -> None: ...

class PrivacyBudget(_message.Message):
    __slots__ = ("epsilon", "delta", "epsilon_spent", "clip", "noise_multiplier", "releases", "releases_allowed")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    RELEASES_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    epsilon_spent: float
    clip: float
    noise_multiplier: float
    releases: int
    releases_allowed: int
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., epsilon_spent: _Optional[float] = ..., clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., releases: _Optional[int] = ..., releases_allowed: _Optional[int] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("number", "phase", "directions_wanted", "directions_collected", "variance", "variance_threshold", "reason", "devices")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_WANTED_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_COLLECTED_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    number: int
    phase: str
    directions_wanted: int
    directions_collected: int
    variance: float
    variance_threshold: float
    reason: str
    devices: int
    def __init__(self, number: _Optional[int] = ..., phase: _Optional[str] = ..., directions_wanted: _Optional[int] = ..., directions_collected: _Optional[int] = ..., variance: _Optional[float] = ..., variance_threshold: _Optional[float] = ..., reason: _Optional[str] = ..., devices: _Optional[int] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("version", "accuracy", "loss", "rows", "federated_accuracy", "federated_rows", "exact_match", "federated_exact_match", "metric", "perplexity", "metric_beside")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_ROWS_FIELD_NUMBER: _ClassVar[int]
    EXACT_MATCH_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_EXACT_MATCH_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    PERPLEXITY_FIELD_NUMBER: _ClassVar[int]
    METRIC_BESIDE_FIELD_NUMBER: _ClassVar[int]
    version: int
    accuracy: float
    loss: float
    rows: int
    federated_accuracy: float
    federated_rows: int
    exact_match: float
    federated_exact_match: float
    metric: str
    perplexity: float
    metric_beside: str
    def __init__(self, version: _Optional[int] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., rows: _Optional[int] = ..., federated_accuracy: _Optional[float] = ..., federated_rows: _Optional[int] = ..., exact_match: _Optional[float] = ..., federated_exact_match: _Optional[float] = ..., metric: _Optional[str] = ..., perplexity: _Optional[float] = ..., metric_beside: _Optional[str] = ...) -> None: ...

class DeviceUsage(_message.Message):
    __slots__ = ("device_id", "scalars", "seconds", "example_passes", "peak_rss_bytes", "bytes_sent", "bytes_received", "artifact_bytes", "signal_to_noise", "noisy", "joules", "failure")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_PASSES_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_TO_NOISE_FIELD_NUMBER: _ClassVar[int]
    NOISY_FIELD_NUMBER: _ClassVar[int]
    JOULES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    scalars: int
    seconds: float
    example_passes: float
    peak_rss_bytes: int
    bytes_sent: int
    bytes_received: int
    artifact_bytes: int
    signal_to_noise: float
    noisy: bool
    joules: float
    failure: str
    def __init__(self, device_id: _Optional[str] = ..., scalars: _Optional[int] = ..., seconds: _Optional[float] = ..., example_passes: _Optional[float] = ..., peak_rss_bytes: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., artifact_bytes: _Optional[int] = ..., signal_to_noise: _Optional[float] = ..., noisy: bool = ..., joules: _Optional[float] = ..., failure: _Optional[str] = ...) -> None: ...

class ExportAdapterRequest(_message.Message):
    __slots__ = ("job", "version", "best", "format")
    JOB_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    job: str
    version: int
    best: bool
    format: str
    def __init__(self, job: _Optional[str] = ..., version: _Optional[int] = ..., best: bool = ..., format: _Optional[str] = ...) -> None: ...

class AdapterChunk(_message.Message):
    __slots__ = ("file_name", "data", "version")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    data: bytes
    version: int
    def __init__(self, file_name: _Optional[str] = ..., data: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class JobHistory(_message.Message):
    __slots__ = ("job_id", "name", "versions")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    versions: _containers.RepeatedCompositeFieldContainer[VersionRecord]
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[VersionRecord, _Mapping]]] = ...) -> None: ...

class VersionRecord(_message.Message):
    __slots__ = ("version", "round", "directions", "variance", "variance_threshold", "reason", "committed_unix_s", "evaluation")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIRECTIONS_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    directions: int
    variance: float
    variance_threshold: float
    reason: str
    committed_unix_s: float
    evaluation: Evaluation
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., directions: _Optional[int] = ..., variance: _Optional[float] = ..., variance_threshold: _Optional[float] = ..., reason: _Optional[str] = ..., committed_unix_s: _Optional[float] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("job_id", "name", "spec_toml", "base_folder", "resolved_json")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_TOML_FIELD_NUMBER: _ClassVar[int]
    BASE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_JSON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    spec_toml: str
    base_folder: str
    resolved_json: str
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., spec_toml: _Optional[str] = ..., base_folder: _Optional[str] = ..., resolved_json: _Optional[str] = ...) -> None: ...

class CreateJoinTokenRequest(_message.Message):
    __slots__ = ("name", "lifetime_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    lifetime_s: int
    def __init__(self, name: _Optional[str] = ..., lifetime_s: _Optional[int] = ...) -> None: ...

class CreateJoinTokenResponse(_message.Message):
    __slots__ = ("join_token", "expires_unix_s", "voids_former")
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    VOIDS_FORMER_FIELD_NUMBER: _ClassVar[int]
    join_token: str
    expires_unix_s: int
    voids_former: bool
    def __init__(self, join_token: _Optional[str] = ..., expires_unix_s: _Optional[int] = ..., voids_former: bool = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "name", "enrolled_unix_s", "last_seen_unix_s", "revoked", "training_examples", "software", "conditions", "state", "reasons", "failures")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    TRAINING_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    name: str
    enrolled_unix_s: int
    last_seen_unix_s: int
    revoked: bool
    training_examples: int
    software: str
    conditions: _conditions_pb2.Conditions
    state: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    failures: _containers.ScalarMap[str, str]
    def __init__(self, device_id: _Optional[str] = ..., name: _Optional[str] = ..., enrolled_unix_s: _Optional[int] = ..., last_seen_unix_s: _Optional[int] = ..., revoked: bool = ..., training_examples: _Optional[int] = ..., software: _Optional[str] = ..., conditions: _Optional[_Union[_conditions_pb2.Conditions, _Mapping]] = ..., state: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., failures: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RevokeDeviceRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: str
    def __init__(self, device: _Optional[str] = ...) -> None: ...
