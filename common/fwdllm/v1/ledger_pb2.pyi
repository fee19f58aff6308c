from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OptimizerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_KIND_UNSPECIFIED: _ClassVar[OptimizerKind]
    OPTIMIZER_KIND_SGD: _ClassVar[OptimizerKind]
    OPTIMIZER_KIND_MOMENTUM: _ClassVar[OptimizerKind]
    OPTIMIZER_KIND_ADAM: _ClassVar[OptimizerKind]
    OPTIMIZER_KIND_NORMALIZED: _ClassVar[OptimizerKind]
    OPTIMIZER_KIND_TRUST_RATIO: _ClassVar[OptimizerKind]

class Distribution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISTRIBUTION_UNSPECIFIED: _ClassVar[Distribution]
    DISTRIBUTION_RADEMACHER: _ClassVar[Distribution]
    DISTRIBUTION_GAUSSIAN: _ClassVar[Distribution]
OPTIMIZER_KIND_UNSPECIFIED: OptimizerKind
OPTIMIZER_KIND_SGD: OptimizerKind
OPTIMIZER_KIND_MOMENTUM: OptimizerKind
OPTIMIZER_KIND_ADAM: OptimizerKind
OPTIMIZER_KIND_NORMALIZED: OptimizerKind
OPTIMIZER_KIND_TRUST_RATIO: OptimizerKind
DISTRIBUTION_UNSPECIFIED: Distribution
DISTRIBUTION_RADEMACHER: Distribution
DISTRIBUTION_GAUSSIAN: Distribution

class Optimizer(_message.Message):
    __slots__ = ("kind", "beta1", "beta2", "epsilon", "weight_decay")
    KIND_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    kind: OptimizerKind
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    def __init__(self, kind: _Optional[_Union[OptimizerKind, str]] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., epsilon: _Optional[float] = ..., weight_decay: _Optional[float] = ...) -> None: ...

class RunHeader(_message.Message):
    __slots__ = ("run_key", "generator_version", "layout_digest", "initial_theta_digest", "optimizer", "distribution", "orthogonal_blocks")
    RUN_KEY_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    INITIAL_THETA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ORTHOGONAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    run_key: int
    generator_version: int
    layout_digest: bytes
    initial_theta_digest: bytes
    optimizer: Optimizer
    distribution: Distribution
    orthogonal_blocks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_key: _Optional[int] = ..., generator_version: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., initial_theta_digest: _Optional[bytes] = ..., optimizer: _Optional[_Union[Optimizer, _Mapping]] = ..., distribution: _Optional[_Union[Distribution, str]] = ..., orthogonal_blocks: _Optional[_Iterable[str]] = ...) -> None: ...

class BlockUpdate(_message.Message):
    __slots__ = ("block", "learning_rate", "first_seed", "seed_steps", "coefficients", "spans", "shift", "mantissas")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEED_FIELD_NUMBER: _ClassVar[int]
    SEED_STEPS_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    MANTISSAS_FIELD_NUMBER: _ClassVar[int]
    block: str
    learning_rate: float
    first_seed: int
    seed_steps: _containers.RepeatedScalarFieldContainer[int]
    coefficients: _containers.RepeatedScalarFieldContainer[int]
    spans: _containers.RepeatedCompositeFieldContainer[SeedSpan]
    shift: int
    mantissas: bytes
    def __init__(self, block: _Optional[str] = ..., learning_rate: _Optional[float] = ..., first_seed: _Optional[int] = ..., seed_steps: _Optional[_Iterable[int]] = ..., coefficients: _Optional[_Iterable[int]] = ..., spans: _Optional[_Iterable[_Union[SeedSpan, _Mapping]]] = ..., shift: _Optional[int] = ..., mantissas: _Optional[bytes] = ...) -> None: ...

class SeedSpan(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("version", "updates", "theta_digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    THETA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    updates: _containers.RepeatedCompositeFieldContainer[BlockUpdate]
    theta_digest: bytes
    def __init__(self, version: _Optional[int] = ..., updates: _Optional[_Iterable[_Union[BlockUpdate, _Mapping]]] = ..., theta_digest: _Optional[bytes] = ...) -> None: ...

class LedgerSegment(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ...) -> None: ...

class OptimizerState(_message.Message):
    __slots__ = ("block", "first", "second", "decay1", "decay2")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    DECAY1_FIELD_NUMBER: _ClassVar[int]
    DECAY2_FIELD_NUMBER: _ClassVar[int]
    block: str
    first: bytes
    second: bytes
    decay1: float
    decay2: float
    def __init__(self, block: _Optional[str] = ..., first: _Optional[bytes] = ..., second: _Optional[bytes] = ..., decay1: _Optional[float] = ..., decay2: _Optional[float] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("version", "theta", "optimizer")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    version: int
    theta: bytes
    optimizer: _containers.RepeatedCompositeFieldContainer[OptimizerState]
    def __init__(self, version: _Optional[int] = ..., theta: _Optional[bytes] = ..., optimizer: _Optional[_Iterable[_Union[OptimizerState, _Mapping]]] = ...) -> None: ...
