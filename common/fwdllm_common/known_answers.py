"""Known-answer test of a bundle: a few texts, a θ and directions whose scalars the coordinator has computed.

A device computes the same scalars and compares them (DESIGN §4). The file is a line of JSON, followed by θ as
little-endian float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector

TEST_DIRECTIONS = Directions(0x63616E617279)
TEST_SEEDS: NDArray[np.uint64] = np.arange(1, 9, dtype=np.uint64)
MAX_SIGNAL_TO_NOISE = 1e6
"""The value for equal scalars."""

BlockScalars: TypeAlias = Mapping[str, Sequence[float]]
"""The scalars of :data:`TEST_SEEDS` in each block."""


@dataclass(frozen=True, eq=False)
class KnownAnswerTest:
    """The known-answer test of one bundle.

    ``rows`` are token ids; ``labels`` are the targets of all of them together, as the task has them. ``theta`` is
    float32 ``[d]``, ``epsilons`` the step size of each block; ``central`` selects central differences. ``expected`` are
    the scalars of the bundle, ``float32`` those of the model before quantisation; the coordinator computes both.
    """

    rows: Sequence[Sequence[int]]
    labels: Sequence[Any]
    theta: Float32Vector
    epsilons: Mapping[str, float]
    central: bool
    expected: BlockScalars
    float32: BlockScalars

    def to_bytes(self) -> bytes:
        """Return the file's bytes; equal tests have equal bytes."""
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
    def from_bytes(cls, data: bytes) -> KnownAnswerTest:
        """Parse the bytes that :meth:`to_bytes` returns.

        :raises BadInputError: the bytes are not such a file.
        """
        line, _, theta = data.partition(b"\n")
        try:
            facts = json.loads(line)
            return cls(
                rows=[[int(token) for token in row] for row in facts["rows"]],
                labels=_labels(facts["labels"]).tolist(),
                theta=np.frombuffer(theta, dtype="<f4").astype(np.float32),
                epsilons={str(block): float(value) for block, value in facts["epsilons"].items()},
                central=bool(facts["central"]),
                expected=_scalars(facts["expected"]),
                float32=_scalars(facts["float32"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BadInputError(f"the bundle's known-answer test is unreadable ({error}); update fwdllm") from error


def signal_to_noise(found: BlockScalars, expected: BlockScalars) -> float:
    """Return the signal-to-noise ratio of the ``found`` scalars in the worst block.

    It is the root mean square of the expected scalars over that of the errors, from 0 (also where a scalar is not
    finite) to :data:`MAX_SIGNAL_TO_NOISE`.
    """
    return min(_ratio(np.asarray(found[block]), np.asarray(scalars)) for block, scalars in expected.items())


def _ratio(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    noise = float(np.linalg.norm(found - expected))
    if not np.isfinite(noise):
        return 0.0
    return min(MAX_SIGNAL_TO_NOISE, float(np.linalg.norm(expected)) / noise) if noise else MAX_SIGNAL_TO_NOISE


def _labels(facts: Any) -> NDArray[Any]:
    """Return the labels, int32, or float32 where one is no whole number."""
    labels = np.asarray(facts)
    return np.asarray(facts, dtype=np.float32 if labels.dtype.kind == "f" else np.int32)


def _scalars(facts: Mapping[str, Sequence[float]]) -> BlockScalars:
    return {str(block): [float(value) for value in values] for block, values in facts.items()}
