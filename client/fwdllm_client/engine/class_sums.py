"""Per-class sums of the head's inputs: a device's whole contribution to a head's initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fwdllm.v1 import device_pb2
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import BasePass, Rows
from fwdllm_client.engine.batches import distinct_rows
from fwdllm_client.engine.runs import run_groups
from fwdllm_client.engine.stages import Float32
from fwdllm_common.errors import BadInputError


@dataclass(frozen=True, eq=False)
class ClassSum:
    """The sum of the ``features`` of ``rows`` rows of class ``label`` (its index), float32 ``[width]``.

    ``distinct`` is the number of distinct rows among them.
    """

    label: int
    rows: int
    features: Float32
    distinct: int

    def to_message(self) -> device_pb2.ClassSum:
        """Return the sum as a wire message."""
        return device_pb2.ClassSum(label=self.label, rows=self.rows, features=self.features)


def class_sums(shared: Rows, theta: Float32, rows: RowIndices) -> Sequence[ClassSum]:
    """Sum the head's input at ``theta`` over ``rows`` for each class that occurs, by ascending label.

    The sum is accumulated in float64, row by row, and rounded once. ``theta`` is float32 ``[d]``.

    :raises BadInputError: the head reads a vector for each token instead of one for each row.
    """
    chain = shared.chain
    stage, manifest = chain.last, chain.manifest
    if manifest.head_width is None:
        raise BadInputError("this model's head reads tokens and not one vector a row; it cannot begin with class means")
    totals = np.zeros((len(manifest.labels), manifest.head_width))
    base = BasePass(shared, theta)
    base.fill(stage, rows)
    for group in base.ready(stage, run_groups(shared, stage, rows)):
        features = base.features(group) if manifest.features else base.before(stage, group)
        np.add.at(totals, shared.dataset.labels[group.rows], features.astype(np.float64))
    counts = np.bincount(shared.dataset.labels[rows], minlength=len(totals))
    with np.errstate(over="ignore"):  # the coordinator refuses what is not finite
        return [
            ClassSum(
                int(label),
                int(counts[label]),
                totals[label].astype(np.float32),
                distinct_rows(shared.dataset, rows[shared.dataset.labels[rows] == label]),
            )
            for label in counts.nonzero()[0]
        ]
