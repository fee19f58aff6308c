"""Blocks of orthogonal directions: each device measures a frame of its own, or a part of one.

Scalars come in spans of thousands, so what :mod:`fwdllm_server.algorithm.robust_aggregation` does to each is done to
arrays here, by the same rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.estimator import weights
from fwdllm_common.layout import Float32Vector
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.packing import packed


@dataclass(frozen=True, eq=False)
class Span:
    """Scalars of consecutive seeds that one device has measured: fixed-point ``values``, int64 ``[K]``.

    ``examples`` is how many local rows the device has.
    """

    first_seed: int
    values: NDArray[np.int64]
    device: str
    examples: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def seeds(self) -> NDArray[np.uint64]:
        """The seed of each scalar, uint64 ``[K]``."""
        return np.arange(len(self.values), dtype=np.uint64) + np.uint64(self.first_seed)


def scale_of(spans: Sequence[Span]) -> int:
    """Return the scale of the scalars, as :func:`fwdllm_server.algorithm.robust_aggregation.scale_of` does."""
    return int(median(_medians(spans).values()))


def restrained(spans: Sequence[Span], scale: int, clip: float) -> Sequence[Span]:
    """Return the spans with no device louder than ``scale`` as a whole and no scalar above ``clip`` times it."""
    medians, bound = _medians(spans), int(clip * scale)
    return [
        Span(
            span.first_seed,
            _clipped(_rescaled(span.values, scale, medians[span.device]), bound),
            span.device,
            span.examples,
        )
        for span in spans
    ]


def coefficients(spans: Sequence[Span]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the seeds, ascending, and the fixed-point coefficient of each, as the ledger packs them."""
    ordered = sorted(spans, key=lambda span: span.first_seed)
    device_weights = weights(_sizes(ordered), {span.device: span.examples for span in ordered})
    weighted = [np.rint(span.values * device_weights[span.device]).astype(np.int64) for span in ordered]
    return np.concatenate([span.seeds for span in ordered]), packed(np.concatenate(weighted)).integers()


def votes(directions: OrthogonalDirections, spans: Sequence[Span], line: Float32Vector) -> Mapping[str, float]:
    """Return the cosine of each device's slopes with those that ``line`` predicts, over the devices' root mean square.

    Not in standard deviations of chance, as where directions are few: of thousands of scalars on one batch the rows
    are what is uncertain, and how much they are shows in how devices differ.
    """
    products: dict[str, float] = defaultdict(float)
    said: dict[str, float] = defaultdict(float)
    predicted: dict[str, float] = defaultdict(float)
    for span in spans:
        slopes, values = directions.products(span.seeds, line), span.values.astype(np.float64)
        products[span.device] += float(slopes @ values)
        said[span.device] += float(values @ values)
        predicted[span.device] += float(slopes @ slopes)
    cosines = {
        device: product / sqrt(said[device] * predicted[device])
        for device, product in products.items()
        if said[device] * predicted[device] > 0
    }
    size = sqrt(sum(cosine**2 for cosine in cosines.values()) / len(cosines)) if cosines else 0.0
    return {device: cosine / size for device, cosine in cosines.items()} if size else {}


def _sizes(spans: Sequence[Span]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for span in spans:
        sizes[span.device] += len(span)
    return sizes


def _medians(spans: Sequence[Span]) -> Mapping[str, int]:
    """Return the median magnitude of each device's scalars."""
    found: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for span in spans:
        found[span.device].append(np.abs(span.values))
    return {device: int(np.median(np.concatenate(values))) for device, values in found.items()}


def _rescaled(values: NDArray[np.int64], scale: int, loud: int) -> NDArray[np.int64]:
    if loud <= scale:
        return values
    # In float64, which has 53 bits: a value has 40, and one rounding is the same everywhere.
    quieter: NDArray[np.int64] = np.rint(values * (scale / loud)).astype(np.int64)
    return quieter


def _clipped(values: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    kept: NDArray[np.int64] = np.clip(values, -bound, bound)
    return kept
