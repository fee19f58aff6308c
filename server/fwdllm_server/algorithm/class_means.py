"""A linear head from the class means of its features: the nearest mean, as a softmax (decision 0009).

With the mean m_c of each class, m̄ of these and a scale s, the logit of class c is s · (‖x − m̄‖² − ‖x − m_c‖²) / 2:
linear discriminant analysis with the covariance I / s. Softmax is blind to what all logits have in common; that it is
the distance to m̄ makes the weights small and puts a class of which nothing is known at m̄, with weights of zero.

Sums are strangers' words (docs/security.md): m_c is the middle of the devices' means and not the mean of all rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log, sqrt
from statistics import median, median_low

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest

CONFIDENCE = 0.97
"""How probable a class is at its own mean, were all means equally far from each other; it sets the scale s.

Nothing that devices send says how far rows stray from their mean. On BBC News, AG News and Yelp sentences (mean-pooled
all-MiniLM-L6-v2) the loss on other rows is 0.19, 0.38 and 0.23; the best s would give 0.12, 0.38 and 0.23.
"""
MAX_SUM = float(1 << 28)
"""Largest magnitude in a sum of features that is accepted."""
MAX_DEVICES = 1 << 14
"""How many devices' sums are held in memory while the head is made."""
MOST_ROWS = 2
"""A device counts for so many times the median of the rows that devices have of a class at most."""
MOST_NORM = 2.0
"""The mean of a device is so many times as long as the median one at most."""
_ENOUGH_FOR_A_MEDIAN = 3


@dataclass(frozen=True)
class LinearHead:
    """Where the weight ``[classes, width]`` and the bias ``[classes]`` of a linear head lie in θ."""

    classes: int
    width: int
    weight: slice
    bias: slice

    @classmethod
    def of(cls, manifest: Manifest) -> LinearHead:
        """Return the head of a model.

        :raises BadInputError: it is anything but one linear layer with a bias on pooled features.
        """
        width, block, classes = manifest.head_width, manifest.stages[-1].block or "", len(manifest.labels)
        shapes = [tensor.shape for tensor in manifest.layout.tensors if tensor.block == block]
        weight, bias = (classes, width or 0), (classes,)
        if width is None or sorted(shapes, key=len) != [bias, weight]:
            raise BadInputError(
                f"class means need a head of one linear layer with a bias on pooled features, {weight} and {bias}, "
                f'and this model\'s has {shapes}; set [model] pooling = "mean", or head = "zeros"'
            )
        places = manifest.layout.tensors_of(block)
        return cls(classes, width, places[shapes.index(weight)], places[shapes.index(bias)])

    def takes(self, label: int, features: Float32Vector) -> bool:
        """Whether this can be a sum of what the head reads: finite, within bounds, as wide as it has to be."""
        # A comparison with NaN is false.
        return label < self.classes and len(features) == self.width and bool((np.abs(features) <= MAX_SUM).all())


class ClassTotals:
    """Sums of features by class and device: the same means whatever the order in which they are added.

    ``rows`` is how many rows of each class there are, int64 ``[classes]``.
    """

    def __init__(self, head: LinearHead) -> None:
        self.rows: NDArray[np.int64] = np.zeros(head.classes, dtype=np.int64)
        self._sums: dict[int, list[tuple[int, Float32Vector]]] = defaultdict(list)

    def add(self, label: int, rows: int, features: Float32Vector) -> None:
        """Add what one device has of one class; the head takes it, and there are at most :data:`MAX_DEVICES`."""
        self.rows[label] += rows
        self._sums[label].append((rows, features))

    def means(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean feature of each of ``labels``, float64 ``[len(labels), width]``.

        In each coordinate it is the median of what the devices have, each counting by its rows; of two devices, which
        cannot outvote one, it is their mean.
        """
        norms = [_norm(features) / rows for sums in self._sums.values() for rows, features in sums]
        longest = MOST_NORM * median(norms)
        return np.stack([_middle(self._sums[label], longest) for label in labels.tolist()])


def _middle(sums: Sequence[tuple[int, Float32Vector]], longest: float) -> NDArray[np.float64]:
    most = MOST_ROWS * median_low(rows for rows, _ in sums)
    weights = np.array([min(rows, most) for rows, _ in sums], dtype=np.int64)
    means = np.stack([_shortened(features.astype(np.float64) / rows, longest) for rows, features in sums])
    if len(sums) < _ENOUGH_FOR_A_MEDIAN:
        return np.asarray((weights[:, None] * means).sum(axis=0) / weights.sum())  # of two, in either order the same
    order = np.argsort(means, axis=0)
    ascending = np.take_along_axis(means, order, axis=0)
    reached = 2 * np.cumsum(weights[order], axis=0)
    half = weights.sum()
    low, high = (reached < half).sum(axis=0), (reached <= half).sum(axis=0)
    columns = np.arange(means.shape[1])
    return np.asarray((ascending[low, columns] + ascending[high, columns]) / 2)


def _shortened(mean: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    length = _norm(mean)
    return mean if length <= longest else mean * (longest / length)


def _norm(vector: NDArray[np.floating]) -> float:
    """Sum exactly and round once: the same on every machine."""
    return sqrt(fsum(np.square(vector, dtype=np.float64).tolist()))


def head_from_means(theta: Float32Vector, head: LinearHead, totals: ClassTotals) -> Float32Vector:
    """θ, float32 ``[d]``, with the head made from ``totals``, of two classes at least; the same bits on every machine.

    All of it is separate float64 operations and exact sums, rounded to float32 at the end.
    """
    known = totals.rows.nonzero()[0]
    means = totals.means(known)
    centre = np.zeros(head.width)
    for mean in means:  # one after the other: numpy does not promise the order of a sum
        centre += mean
    centre /= len(known)
    offsets = means - centre
    scale = _scale(offsets)
    weight = np.zeros((head.classes, head.width))
    bias = np.zeros(head.classes)
    for label, offset in zip(known, offsets, strict=True):
        weight[label] = scale * offset
        # ‖m_c‖² − ‖m̄‖², without the difference of two large numbers
        bias[label] = -scale * fsum((offset * (offset + 2 * centre)).tolist()) / 2
    initial = theta.copy()
    initial[head.weight] = weight.astype(np.float32).reshape(-1)
    initial[head.bias] = bias.astype(np.float32)
    return initial


def _scale(offsets: NDArray[np.float64]) -> float:
    """s, such that a class at the mean distance from all others has :data:`CONFIDENCE` at its own mean."""
    others = len(offsets) - 1
    # Over all pairs of classes; Σ ‖m_i − m_j‖² is twice their number times Σ ‖m_c − m̄‖².
    squared_distance = 2 * fsum((offsets * offsets).reshape(-1).tolist()) / others
    if squared_distance == 0:
        return 0.0
    margin = log(others * CONFIDENCE / (1 - CONFIDENCE))
    # Logarithms may differ in their last bit between machines, and float32 has no room for it.
    return float(np.float32(2 * margin / squared_distance))
