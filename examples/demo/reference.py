"""What the demo's figures are held against: a linear probe on frozen features, and the memory of inference alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]

_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


def probe_accuracy(
    training: tuple[Features, NDArray[np.int64]], held_out: tuple[Features, NDArray[np.int64]], classes: int
) -> float:
    """Held-out accuracy of ridge regression onto one-hot labels, its penalty chosen on a fifth of the training rows.

    Each pair is features ``[rows, width]`` and class indices ``[rows]``.
    """
    features, labels = training
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    rows, test_rows = (features - centre) / scale, (held_out[0] - centre) / scale
    targets = np.eye(classes)[labels]
    fold = np.arange(len(rows)) % 5 == 0

    def accuracy(penalty: float, fit: NDArray[np.bool_], inputs: Features, truth: NDArray[np.int64]) -> float:
        design = np.column_stack([rows[fit], np.ones(fit.sum())])
        weights = np.linalg.solve(design.T @ design + penalty * np.eye(design.shape[1]), design.T @ targets[fit])
        return float((np.column_stack([inputs, np.ones(len(inputs))]) @ weights).argmax(axis=1).__eq__(truth).mean())

    best = max(_PENALTIES, key=lambda penalty: accuracy(penalty, ~fold, rows[fold], labels[fold]))
    return accuracy(best, np.ones(len(rows), dtype=bool), test_rows, held_out[1])
