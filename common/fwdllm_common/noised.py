"""What a device adds to a sum with differential privacy: its scalars within the clip, and its share of the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_common.clipping import Part, clipped, noise_variance
from fwdllm_common.discrete_gaussian import discrete_gaussian


def noised(values: NDArray[np.int64], assignment: device_pb2.Assignment, orders: Sequence[int]) -> NDArray[np.int64]:
    """Return the fixed-point scalars of an assignment, int64 ``[length]``, as its clip and its noise leave them.

    ``orders`` are those of the frames that its tasks are parts of. Each call draws other noise.
    """
    clip, share = assignment.secure_aggregation.clip, assignment.secure_aggregation.noise
    sizes = [sum(seeds.count for seeds in task.seeds) for task in assignment.directions]
    pieces = np.split(values, np.cumsum(sizes)[:-1])
    parts = [Part(piece, order) for piece, order in zip(pieces, orders, strict=True)]
    noise = [
        discrete_gaussian(noise_variance(share, clip, len(part.values), part.order), len(part.values)) for part in parts
    ]
    found: NDArray[np.int64] = np.concatenate(clipped(parts, clip)) + np.concatenate(noise)
    return found
