"""The trainable vector θ: which tensor lies where, and which block of directions covers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError

Float32Vector = NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """One trainable tensor: its key in the PEFT adapter file, its shape and the block it belongs to."""

    name: str
    shape: tuple[int, ...]
    block: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Block:
    """A contiguous slice ``[start, stop)`` of θ that one direction covers."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """The block as a slice of θ."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Layout:
    """The order of the trainable tensors in θ; tensors of one block are neighbours.

    :raises BadInputError: no tensor, a name given twice, an empty tensor, or a block in two pieces.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise BadInputError("layout: no trainable tensor; choose a PEFT method or a head to train")
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise BadInputError("layout: a tensor name occurs twice; tensor names must be unique")
        if empty := [tensor.name for tensor in self.tensors if min(tensor.shape, default=1) < 1]:
            raise BadInputError(f"layout: tensor {empty[0]!r} has no elements")
        order = [tensor.block for tensor in self.tensors]
        if len([block for i, block in enumerate(order) if i == 0 or order[i - 1] != block]) != len(set(order)):
            raise BadInputError("layout: the tensors of a block must be neighbours")

    @cached_property
    def size(self) -> int:
        """Length d of θ."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in θ, in the order of ``tensors``."""
        return tuple(accumulate((tensor.size for tensor in self.tensors[:-1]), initial=0))

    @cached_property
    def blocks(self) -> Mapping[str, Block]:
        """The blocks by name, in the order in which they lie in θ."""
        found: dict[str, Block] = {}
        for tensor, start in zip(self.tensors, self.offsets, strict=True):
            first = found[tensor.block].start if tensor.block in found else start
            found[tensor.block] = Block(tensor.block, first, start + tensor.size)
        return found

    def block(self, name: str) -> Block:
        """Return the block called ``name``.

        :raises BadInputError: there is none.
        """
        if name not in self.blocks:
            raise BadInputError(f"unknown block {name!r}; this model has {', '.join(self.blocks)}")
        return self.blocks[name]

    def tensors_of(self, block: str) -> list[slice]:
        """Where the tensors of a block lie in θ, in their order."""
        return [
            slice(start, start + tensor.size)
            for tensor, start in zip(self.tensors, self.offsets, strict=True)
            if tensor.block == block
        ]

    def part(self, block: str, tensor: str) -> Block:
        """One tensor of a block as a slice of θ that carries the block's name; the whole block if ``tensor`` is empty.

        :raises BadInputError: there is no such block, or no such tensor in it.
        """
        whole = self.block(block)
        if not tensor:
            return whole
        names = [spec.name for spec in self.tensors if spec.block == block]
        if tensor not in names:
            raise BadInputError(f"block {block!r} has no tensor {tensor!r}; it has {', '.join(names)}")
        found = self.tensors_of(block)[names.index(tensor)]
        return Block(block, found.start, found.stop)

    def pack(self, tensors: Mapping[str, NDArray[np.float32]]) -> Float32Vector:
        """θ, float32 ``[d]``, from the named tensors.

        :raises BadInputError: a tensor is missing or has another shape.
        """
        parts = []
        for spec in self.tensors:
            if spec.name not in tensors:
                raise BadInputError(f"tensor {spec.name!r} is missing")
            value = np.asarray(tensors[spec.name], dtype=np.float32)
            if value.shape != spec.shape:
                raise BadInputError(f"tensor {spec.name!r} has shape {value.shape}, expected {spec.shape}")
            parts.append(value.reshape(-1))
        return np.concatenate(parts)

    def unpack(self, theta: Float32Vector) -> dict[str, NDArray[np.float32]]:
        """Return the named tensors as views into θ, float32 ``[d]``.

        :raises BadInputError: θ has another length.
        """
        if theta.shape != (self.size,):
            raise BadInputError(f"theta has shape {theta.shape}, expected ({self.size},)")
        return {
            spec.name: theta[start : start + spec.size].reshape(spec.shape)
            for spec, start in zip(self.tensors, self.offsets, strict=True)
        }

    def to_json(self) -> list[dict[str, object]]:
        """Return a JSON-ready list, one object per tensor."""
        return [{"name": t.name, "shape": list(t.shape), "block": t.block} for t in self.tensors]

    @classmethod
    def from_json(cls, value: object) -> Layout:
        """Return the inverse of :meth:`to_json`.

        :raises BadInputError: the value has another form.
        """
        try:
            return cls(
                tuple(
                    TensorSpec(str(item["name"]), tuple(int(n) for n in item["shape"]), str(item["block"]))
                    for item in value  # type: ignore[attr-defined]
                )
            )
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise BadInputError(f"layout: not a list of tensors ({error})") from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: two machines with the same digest agree on every coordinate."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()
