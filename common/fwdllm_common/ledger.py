"""The ledger: what a run *is* (DESIGN §2, invariant 2).

A run is θ₀, a :class:`RunHeader` and one :class:`LedgerEntry` for each committed round; θ_t is defined as the replay of
the first t entries (:mod:`fwdllm_common.replay`). Entries travel and are stored as protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fwdllm.v1 import ledger_pb2
from fwdllm_common.directions import Directions, Distribution
from fwdllm_common.errors import BadInputError
from fwdllm_common.fixed_point import MAX_DIRECTIONS, MAX_ORTHOGONAL_DIRECTIONS
from fwdllm_common.layout import Block
from fwdllm_common.optimizers import OptimizerKind, OptimizerSettings
from fwdllm_common.orthogonal import AnyDirections, OrthogonalDirections
from fwdllm_common.packing import Packed, packed
from fwdllm_common.protocol import GENERATOR_VERSION, ORTHOGONAL_GENERATOR_VERSION
from fwdllm_common.seeds import array_of, from_messages, ranges_of

_KINDS: dict[ledger_pb2.OptimizerKind, OptimizerKind] = {
    ledger_pb2.OPTIMIZER_KIND_SGD: "sgd",
    ledger_pb2.OPTIMIZER_KIND_MOMENTUM: "momentum",
    ledger_pb2.OPTIMIZER_KIND_ADAM: "adam",
    ledger_pb2.OPTIMIZER_KIND_NORMALIZED: "normalized",
    ledger_pb2.OPTIMIZER_KIND_TRUST_RATIO: "trust-ratio",
}
_CODES = {kind: code for code, kind in _KINDS.items()}
_DISTRIBUTIONS: dict[ledger_pb2.Distribution, Distribution] = {
    ledger_pb2.DISTRIBUTION_RADEMACHER: "rademacher",
    ledger_pb2.DISTRIBUTION_GAUSSIAN: "gaussian",
}
_DISTRIBUTION_CODES = {distribution: code for code, distribution in _DISTRIBUTIONS.items()}


@dataclass(frozen=True)
class RunHeader:
    """What stays the same through a run: its directions, the layout and θ₀ by hash, the optimiser.

    ``directions`` are those of all blocks but the ``orthogonal`` ones.
    """

    directions: Directions
    layout_digest: bytes
    initial_theta_digest: bytes
    optimizer: OptimizerSettings
    orthogonal: tuple[str, ...] = ()

    @property
    def generator_version(self) -> int:
        """The oldest with which the run can be replayed."""
        newer = self.orthogonal or self.optimizer.weight_decay
        return ORTHOGONAL_GENERATOR_VERSION if newer else GENERATOR_VERSION

    def directions_of(self, block: Block) -> AnyDirections:
        """Return what the seeds of a block mean."""
        if block.name in self.orthogonal:
            return OrthogonalDirections(self.directions.run_key, block.start, block.size)
        return self.directions

    def order_of(self, block: Block) -> int:
        """Return the order of the frames that a block's directions are parts of, 0 if they are independent."""
        directions = self.directions_of(block)
        return directions.order if isinstance(directions, OrthogonalDirections) else 0

    def to_message(self) -> ledger_pb2.RunHeader:
        """Return the header as protobuf."""
        return ledger_pb2.RunHeader(
            run_key=self.directions.run_key,
            distribution=_DISTRIBUTION_CODES[self.directions.distribution],
            generator_version=self.generator_version,
            layout_digest=self.layout_digest,
            initial_theta_digest=self.initial_theta_digest,
            optimizer=ledger_pb2.Optimizer(
                kind=_CODES[self.optimizer.kind],
                beta1=self.optimizer.beta1,
                beta2=self.optimizer.beta2,
                epsilon=self.optimizer.epsilon,
                weight_decay=self.optimizer.weight_decay,
            ),
            orthogonal_blocks=self.orthogonal,
        )

    @classmethod
    def from_message(cls, message: ledger_pb2.RunHeader) -> RunHeader:
        """Return the inverse of :meth:`to_message`.

        :raises BadInputError: made for another generator, or with an optimiser or a distribution unknown here.
        """
        if not GENERATOR_VERSION <= message.generator_version <= ORTHOGONAL_GENERATOR_VERSION:
            raise BadInputError(
                f"this run draws its directions with generator {message.generator_version}, "
                f"this program has {ORTHOGONAL_GENERATOR_VERSION}; update fwdllm"
            )
        if message.optimizer.kind not in _KINDS:
            raise BadInputError("run header: unknown optimiser; update fwdllm")
        if message.distribution not in _DISTRIBUTIONS:
            raise BadInputError("run header: unknown distribution of directions; update fwdllm")
        return cls(
            directions=Directions(message.run_key, _DISTRIBUTIONS[message.distribution]),
            layout_digest=message.layout_digest,
            initial_theta_digest=message.initial_theta_digest,
            optimizer=OptimizerSettings(
                kind=_KINDS[message.optimizer.kind],
                beta1=message.optimizer.beta1,
                beta2=message.optimizer.beta2,
                epsilon=message.optimizer.epsilon,
                weight_decay=message.optimizer.weight_decay,
            ),
            orthogonal=tuple(message.orthogonal_blocks),
        )

    def to_bytes(self) -> bytes:
        """Return the header as stored: protobuf ``fwdllm.v1.RunHeader``."""
        return self.to_message().SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> RunHeader:
        """Return the inverse of :meth:`to_bytes`.

        :raises BadInputError: not a header, or one that :meth:`from_message` refuses.
        """
        try:
            return cls.from_message(ledger_pb2.RunHeader.FromString(data))
        except DecodeError as error:
            raise BadInputError(f"run header: {error}") from error


@dataclass(frozen=True, eq=False)
class BlockUpdate:
    """The directions of one round in one block: ``seeds`` uint64 ``[K]``, fixed-point ``coefficients`` int64 ``[K]``,
    and the learning rate of the step, rounded to float32.

    With ``packed`` they are what :func:`fwdllm_common.packing.packed` leaves as it is.
    """

    block: str
    seeds: NDArray[np.uint64]
    coefficients: NDArray[np.int64]
    learning_rate: np.float32
    packed: bool = False

    def __post_init__(self) -> None:
        most = MAX_ORTHOGONAL_DIRECTIONS if self.packed else MAX_DIRECTIONS
        if not 1 <= len(self.seeds) <= most:
            raise BadInputError(f"ledger: an update has 1 to {most} directions, not {len(self.seeds)}")
        if len(self.seeds) != len(self.coefficients):
            raise BadInputError("ledger: seeds and coefficients differ in number")
        if not np.isfinite(self.learning_rate):
            raise BadInputError("ledger: the learning rate is not finite")

    def to_message(self) -> ledger_pb2.BlockUpdate:
        """Return the update as protobuf; seeds travel as spans, or as differences, which are small."""
        message = ledger_pb2.BlockUpdate(block=self.block, learning_rate=float(self.learning_rate))
        if self.packed:
            coefficients = packed(self.coefficients)
            message.spans.extend(
                ledger_pb2.SeedSpan(first=each.start, count=len(each)) for each in ranges_of(self.seeds)
            )
            message.shift, message.mantissas = coefficients.shift, coefficients.to_bytes()
        else:
            message.first_seed = int(self.seeds[0])
            message.seed_steps.extend(np.diff(self.seeds.view(np.int64)).tolist())
            message.coefficients.extend(self.coefficients.tolist())
        return message

    @classmethod
    def from_message(cls, message: ledger_pb2.BlockUpdate) -> BlockUpdate:
        """Return the inverse of :meth:`to_message`.

        :raises BadInputError: the numbers do not fit together.
        """
        if not message.spans:
            seeds = _seeds(message.first_seed, message.seed_steps)
            coefficients = np.array(message.coefficients, dtype=np.int64)
        elif sum(span.count for span in message.spans) > MAX_ORTHOGONAL_DIRECTIONS:
            raise BadInputError(f"ledger: an update has at most {MAX_ORTHOGONAL_DIRECTIONS} directions")
        else:
            seeds = array_of(from_messages(message.spans))
            try:
                coefficients = Packed.from_bytes(message.shift, message.mantissas).integers()
            except ValueError as error:
                raise BadInputError(f"ledger: coefficients are not packed as they should be: {error}") from error
        rate = np.float32(message.learning_rate)
        return cls(message.block, seeds, coefficients, rate, packed=bool(message.spans))


@dataclass(frozen=True)
class LedgerEntry:
    """One committed round: it takes θ from ``version - 1`` to ``version``, whose SHA-256 is ``theta_digest``."""

    version: int
    updates: tuple[BlockUpdate, ...]
    theta_digest: bytes

    def __post_init__(self) -> None:
        blocks = [update.block for update in self.updates]
        if twice := [block for block in blocks if blocks.count(block) > 1]:
            raise BadInputError(f"ledger: block {twice[0]!r} occurs twice in entry {self.version}")

    def with_digest(self, theta_digest: bytes) -> LedgerEntry:
        """Return the same entry with the hash of the θ that it leads to."""
        return replace(self, theta_digest=theta_digest)

    def to_message(self) -> ledger_pb2.LedgerEntry:
        """Return the entry as protobuf."""
        return ledger_pb2.LedgerEntry(
            version=self.version,
            theta_digest=self.theta_digest,
            updates=[update.to_message() for update in self.updates],
        )

    @classmethod
    def from_message(cls, message: ledger_pb2.LedgerEntry) -> LedgerEntry:
        """Return the inverse of :meth:`to_message`.

        :raises BadInputError: the numbers do not fit together.
        """
        return cls(
            version=message.version,
            theta_digest=message.theta_digest,
            updates=tuple(map(BlockUpdate.from_message, message.updates)),
        )

    def to_bytes(self) -> bytes:
        """Return the entry as stored: protobuf ``fwdllm.v1.LedgerEntry``."""
        return self.to_message().SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> LedgerEntry:
        """Return the inverse of :meth:`to_bytes`.

        :raises BadInputError: not an entry.
        """
        try:
            return cls.from_message(ledger_pb2.LedgerEntry.FromString(data))
        except DecodeError as error:
            raise BadInputError(f"ledger entry: {error}") from error


def _seeds(first: int, steps: Iterable[int]) -> NDArray[np.uint64]:
    offsets = np.concatenate([[0], np.cumsum(np.array(list(steps), dtype=np.int64))]).astype(np.int64)
    return offsets.view(np.uint64) + np.uint64(first)
