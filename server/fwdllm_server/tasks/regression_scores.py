"""The metrics of predicted numbers, computed by scipy and scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score

from fwdllm_server.tasks.scores import Figure, Scores


@dataclass(frozen=True)
class RegressionScores(Scores):
    """Metrics of numbers; ``loss`` is the mean squared error.

    Correlations are 0 where all numbers of one side are the same, as of a model before its training, or not finite.
    ``r2`` is the share of the variance that is explained, 0 for fewer than two rows.
    """

    pearson: float
    spearman: float
    mean_absolute_error: float
    r2: float

    @classmethod
    def of(cls, truth: Sequence[float], said: Sequence[float], loss: float) -> RegressionScores:
        """Compare the numbers ``said`` with the true ones."""
        wanted, found = np.asarray(truth, dtype=np.float64), np.asarray(said, dtype=np.float64)
        if not np.isfinite(found).all():
            return cls(len(wanted), loss, pearson=0.0, spearman=0.0, mean_absolute_error=np.inf, r2=-np.inf)
        varies = len(wanted) > 1 and np.ptp(wanted) > 0 and np.ptp(found) > 0
        return cls(
            rows=len(wanted),
            loss=loss,
            pearson=float(pearsonr(wanted, found).statistic) if varies else 0.0,
            spearman=float(spearmanr(wanted, found).statistic) if varies else 0.0,
            mean_absolute_error=float(mean_absolute_error(wanted, found)),
            r2=float(r2_score(wanted, found)) if len(wanted) > 1 else 0.0,
        )

    def figures(self) -> Iterator[Figure]:
        """Yield the correlations, the errors and R²."""
        yield "Pearson", f"{self.pearson:.3f}"
        yield "Spearman", f"{self.spearman:.3f}"
        yield "mean squared error", f"{self.loss:.4f}"
        yield "mean absolute error", f"{self.mean_absolute_error:.4f}"
        yield "R²", f"{self.r2:.3f}"
