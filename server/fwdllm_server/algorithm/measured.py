"""What comes back for a block: single scalars, or of orthogonal directions spans of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fwdllm_common import estimator
from fwdllm_common.estimator import Scalar
from fwdllm_server.algorithm import complete
from fwdllm_server.algorithm.complete import Span

Measured: TypeAlias = Sequence[Scalar] | Sequence[Span]


def spans_of(measured: Measured) -> Sequence[Span]:
    """Return the spans; none of a block whose directions are independent."""
    return [each for each in measured if isinstance(each, Span)]


def scalars_of(measured: Measured) -> Sequence[Scalar]:
    """Return the single scalars; none of a block whose directions are orthogonal."""
    return [each for each in measured if isinstance(each, Scalar)]


def coefficients_of(measured: Measured) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return seeds, uint64 ``[K]``, and fixed-point coefficients c_k, int64 ``[K]``: scalars times the weights of (6).

    Coefficients of spans are rounded as the ledger packs them ("Packed scalars"). There is one scalar at least.
    """
    if spans := spans_of(measured):
        return complete.coefficients(spans)
    scalars = scalars_of(measured)
    return np.array([scalar.seed for scalar in scalars], dtype=np.uint64), estimator.coefficients(scalars)


def measured_by_device(blocks: Iterable[Measured]) -> Counter[str]:
    """Return the number of scalars that each device has measured of some blocks."""
    found: Counter[str] = Counter()
    for measured in blocks:
        for each in measured:
            found[each.device] += len(each) if isinstance(each, Span) else 1
    return found
