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
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.optimizers import OptimizerKind, OptimizerSettings
from fwdllm_common.protocol import GENERATOR_VERSION

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
    """What stays the same through a run: its directions, the layout and θ₀ by hash, the optimiser."""

    directions: Directions
    layout_digest: bytes
    initial_theta_digest: bytes
    optimizer: OptimizerSettings
    generator_version: int = GENERATOR_VERSION

    def to_message(self) -> ledger_pb2.RunHeader:
        """The header as protobuf."""
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
            ),
        )

    @classmethod
    def from_message(cls, message: ledger_pb2.RunHeader) -> RunHeader:
        """The inverse of :meth:`to_message`.

        :raises BadInputError: made for another generator, or with an optimiser or a distribution unknown here.
        """
        if message.generator_version != GENERATOR_VERSION:
            raise BadInputError(
                f"this run draws its directions with generator {message.generator_version}, "
                f"this program has {GENERATOR_VERSION}; update fwdllm"
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
            ),
        )

    def to_bytes(self) -> bytes:
        """The header as stored: protobuf ``fwdllm.v1.RunHeader``."""
        return self.to_message().SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> RunHeader:
        """The inverse of :meth:`to_bytes`.

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
    """

    block: str
    seeds: NDArray[np.uint64]
    coefficients: NDArray[np.int64]
    learning_rate: np.float32

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_DIRECTIONS:
            raise BadInputError(f"ledger: an update has 1 to {MAX_DIRECTIONS} directions, not {len(self.seeds)}")
        if len(self.seeds) != len(self.coefficients):
            raise BadInputError("ledger: seeds and coefficients differ in number")
        if not np.isfinite(self.learning_rate):
            raise BadInputError("ledger: the learning rate is not finite")


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
        """The same entry with the hash of the θ that it leads to."""
        return replace(self, theta_digest=theta_digest)

    def to_message(self) -> ledger_pb2.LedgerEntry:
        """The entry as protobuf; seeds travel as differences, which are small."""
        return ledger_pb2.LedgerEntry(
            version=self.version,
            theta_digest=self.theta_digest,
            updates=[
                ledger_pb2.BlockUpdate(
                    block=update.block,
                    learning_rate=float(update.learning_rate),
                    first_seed=int(update.seeds[0]),
                    seed_steps=np.diff(update.seeds.view(np.int64)).tolist(),
                    coefficients=update.coefficients.tolist(),
                )
                for update in self.updates
            ],
        )

    @classmethod
    def from_message(cls, message: ledger_pb2.LedgerEntry) -> LedgerEntry:
        """The inverse of :meth:`to_message`.

        :raises BadInputError: the numbers do not fit together.
        """
        return cls(
            version=message.version,
            theta_digest=message.theta_digest,
            updates=tuple(
                BlockUpdate(
                    block=update.block,
                    seeds=_seeds(update.first_seed, update.seed_steps),
                    coefficients=np.array(update.coefficients, dtype=np.int64),
                    learning_rate=np.float32(update.learning_rate),
                )
                for update in message.updates
            ),
        )

    def to_bytes(self) -> bytes:
        """The entry as stored: protobuf ``fwdllm.v1.LedgerEntry``."""
        return self.to_message().SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> LedgerEntry:
        """The inverse of :meth:`to_bytes`.

        :raises BadInputError: not an entry.
        """
        try:
            return cls.from_message(ledger_pb2.LedgerEntry.FromString(data))
        except DecodeError as error:
            raise BadInputError(f"ledger entry: {error}") from error


def _seeds(first: int, steps: Iterable[int]) -> NDArray[np.uint64]:
    offsets = np.concatenate([[0], np.cumsum(np.array(list(steps), dtype=np.int64))]).astype(np.int64)
    return offsets.view(np.uint64) + np.uint64(first)
