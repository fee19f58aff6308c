"""Compute a head for profiling only.

While the head is zero, the gradient of the layers below it is zero. Devices train the head first. Here it is computed
from the class means of the public rows' features instead (:mod:`fwdllm_server.algorithm.class_means`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.engine import Engine
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server.algorithm.class_means import ClassTotals, LinearHead, head_from_means


def with_closed_form_head(
    engine: Engine, manifest: Manifest, theta: Float32Vector, rows: NDArray[np.int64]
) -> Float32Vector:
    """Return θ, float32 ``[d]``, with the head that follows from the features of ``rows`` at ``theta``.

    :raises BadInputError: the head is not a single linear layer, or features are not finite.
    """
    try:
        head = LinearHead.of(manifest)
    except BadInputError as error:
        raise BadInputError(
            "this model's head is new and not a single linear layer, so that it has no closed form to profile with; "
            'set [model] pooling = "mean", or use a checkpoint with a trained head'
        ) from error
    totals = ClassTotals(head)
    for part in engine.class_sums(theta, rows):
        if not head.takes(part.label, part.features):
            raise BadInputError("the model's features are not finite or very large; choose another model or pooling")
        totals.add(part.label, part.rows, part.features)
    return head_from_means(theta, head, totals)
