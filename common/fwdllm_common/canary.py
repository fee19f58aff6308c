"""A few texts, a θ and directions whose scalars are known: by them a device finds out what its own are worth.

The file is a line of JSON and then θ, little-endian float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector

CANARY_DIRECTIONS = Directions(0x63616E617279)
CANARY_SEEDS: NDArray[np.uint64] = np.arange(1, 9, dtype=np.uint64)
MAX_SIGNAL_TO_NOISE = 1e6
"""What equal scalars have."""

BlockScalars: TypeAlias = Mapping[str, Sequence[float]]
"""For each block the scalars of :data:`CANARY_SEEDS`."""


@dataclass(frozen=True, eq=False)
class Canary:
    """``rows`` of token ids with their ``labels``, ``theta`` float32 ``[d]``, and each block's ``epsilons``.

    Labels are classes, or the first and last token of each answer.

    ``expected`` are the scalars of the bundle that the canary is part of, ``float32`` those of the model before it was
    quantised, both computed by the coordinator.
    """

    rows: Sequence[Sequence[int]]
    labels: Sequence[int] | Sequence[Sequence[int]]
    theta: Float32Vector
    epsilons: Mapping[str, float]
    central: bool
    expected: BlockScalars
    float32: BlockScalars

    def to_bytes(self) -> bytes:
        """The file; the same canary has the same bytes."""
        facts = {
            "rows": [list(row) for row in self.rows],
            "labels": np.asarray(self.labels).tolist(),
            "epsilons": dict(self.epsilons),
            "central": self.central,
            "expected": {block: list(scalars) for block, scalars in self.expected.items()},
            "float32": {block: list(scalars) for block, scalars in self.float32.items()},
        }
        line = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return line.encode() + b"\n" + np.ascontiguousarray(self.theta, dtype="<f4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Canary:
        """The inverse of :meth:`to_bytes`.

        :raises BadInputError: the bytes are no canary.
        """
        line, _, theta = data.partition(b"\n")
        try:
            facts = json.loads(line)
            return cls(
                rows=[[int(token) for token in row] for row in facts["rows"]],
                labels=np.asarray(facts["labels"], dtype=np.int32).tolist(),
                theta=np.frombuffer(theta, dtype="<f4").astype(np.float32),
                epsilons={str(block): float(value) for block, value in facts["epsilons"].items()},
                central=bool(facts["central"]),
                expected=_scalars(facts["expected"]),
                float32=_scalars(facts["float32"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInputError(f"the bundle's canary is unreadable ({error}); update fwdllm") from error


def signal_to_noise(found: BlockScalars, expected: BlockScalars) -> float:
    """Root mean square of the expected scalars over that of what is found beside them, in the worst block.

    At least 0, as where a scalar is not finite, and at most :data:`MAX_SIGNAL_TO_NOISE`.
    """
    return min(_ratio(np.asarray(found[block]), np.asarray(scalars)) for block, scalars in expected.items())


def _ratio(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    noise = float(np.linalg.norm(found - expected))
    if not np.isfinite(noise):
        return 0.0
    return min(MAX_SIGNAL_TO_NOISE, float(np.linalg.norm(expected)) / noise) if noise else MAX_SIGNAL_TO_NOISE


def _scalars(facts: Mapping[str, Sequence[float]]) -> BlockScalars:
    return {str(block): [float(value) for value in values] for block, values in facts.items()}
