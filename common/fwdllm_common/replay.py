"""Replay: the one update rule, θ_t from θ_{t−1} and a ledger entry (DESIGN §2, invariants 2 and 3)."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from fwdllm.v1 import ledger_pb2
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.estimator import Estimate, forward_gradient
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.optimizers import OptimizerState, step


def theta_digest(theta: Float32Vector) -> bytes:
    """SHA-256 of θ's little-endian float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(theta, dtype="<f4").tobytes()).digest()


@dataclass
class ModelState:
    """θ at one version, with what the optimiser carries for each block.

    ``theta`` is float32 ``[d]``. :meth:`advance` puts new arrays in the place of the old ones and changes no array, so
    a shallow copy of a state is independent of it.
    """

    header: RunHeader
    layout: Layout
    version: int
    theta: Float32Vector
    optimizer: dict[str, OptimizerState]

    @classmethod
    def initial(cls, header: RunHeader, layout: Layout, theta: Float32Vector) -> ModelState:
        """Version 0.

        :raises IntegrityError: θ₀ or the layout is not the one that the header names.
        """
        if layout.digest != header.layout_digest:
            raise IntegrityError("the model's layout is not the run's; download the model again")
        if theta_digest(theta) != header.initial_theta_digest:
            raise IntegrityError("the initial weights are not the run's; download them again")
        optimizer = {name: OptimizerState.zeros(header.optimizer, block.size) for name, block in layout.blocks.items()}
        return cls(header, layout, 0, theta.copy(), optimizer)

    @property
    def digest(self) -> bytes:
        """SHA-256 of θ."""
        return theta_digest(self.theta)

    def advance(self, entry: LedgerEntry, estimate: Estimate = forward_gradient) -> LedgerEntry:
        """Apply one entry and return it with the hash of the new θ; an error leaves the state as it was.

        ``estimate`` gives the same bits as :func:`~fwdllm_common.estimator.forward_gradient`, sooner if it has them.

        :raises BadInputError: it is not the next entry, or names an unknown block.
        :raises IntegrityError: the entry carries a hash and the new θ has another.
        """
        if entry.version != self.version + 1:
            raise BadInputError(f"ledger: entry {entry.version} cannot follow version {self.version}")
        theta, optimizer = self.theta.copy(), deepcopy(self.optimizer)
        for update in entry.updates:
            block = self.layout.block(update.block)
            gradient = estimate(self.header.directions_of(block), update.seeds, update.coefficients, block)
            step(self.header.optimizer, optimizer[block.name], theta[block.slice], gradient, update.learning_rate)
        digest = theta_digest(theta)
        if entry.theta_digest and entry.theta_digest != digest:
            raise IntegrityError(f"version {entry.version} of the weights differs from the coordinator's; sync again")
        self.version, self.theta, self.optimizer = entry.version, theta, optimizer
        return entry.with_digest(digest)

    def to_bytes(self) -> bytes:
        """Return a snapshot: protobuf ``fwdllm.v1.Snapshot``, from which a replay can go on."""
        return ledger_pb2.Snapshot(
            version=self.version,
            theta=_to_wire(self.theta),
            optimizer=[
                ledger_pb2.OptimizerState(
                    block=name,
                    first=_to_wire(state.first),
                    second=_to_wire(state.second),
                    decay1=float(state.decay1),
                    decay2=float(state.decay2),
                )
                for name, state in self.optimizer.items()
            ],
        ).SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, header: RunHeader, layout: Layout, data: bytes) -> ModelState:
        """Return the inverse of :meth:`to_bytes`.

        :raises BadInputError: not a snapshot of this layout.
        """
        try:
            message = ledger_pb2.Snapshot.FromString(data)
        except DecodeError as error:
            raise BadInputError(f"snapshot: {error}") from error
        if [state.block for state in message.optimizer] != list(layout.blocks):
            raise BadInputError("snapshot: its blocks are not this model's")
        states = {state.block: state for state in message.optimizer}
        optimizer = {}
        for name, block in layout.blocks.items():
            expected = OptimizerState.zeros(header.optimizer, block.size)
            optimizer[name] = OptimizerState(
                _from_wire(states[name].first, len(expected.first)),
                _from_wire(states[name].second, len(expected.second)),
                np.float32(states[name].decay1),
                np.float32(states[name].decay2),
            )
        return cls(header, layout, message.version, _from_wire(message.theta, layout.size), optimizer)


def _to_wire(vector: Float32Vector) -> bytes:
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def _from_wire(data: bytes, size: int) -> Float32Vector:
    if len(data) != 4 * size:
        raise BadInputError(f"snapshot: a vector has {len(data)} bytes, expected {4 * size}")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)
