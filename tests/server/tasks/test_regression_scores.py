import math

import pytest

from fwdllm_server.tasks.regression_scores import RegressionScores


def test_metrics_are_those_of_a_count_by_hand():
    found = RegressionScores.of([1, 2, 3, 4], [1, 3, 2, 8], loss=4.5)
    # Deviations from 2.5 and 3.5: their products sum up to 10, their squares to 5 and 29.
    assert found.pearson == pytest.approx(10 / math.sqrt(5 * 29))
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 0, 1, 1, 0
    assert (found.rows, found.loss, found.mean_absolute_error) == (4, 4.5, 1.5)
    assert found.r2 == pytest.approx(1 - 18 / 5)
    assert dict(found.figures())["Spearman"] == "0.800"


def test_a_model_that_says_the_same_of_all_is_not_correlated():
    found = RegressionScores.of([1, 2], [0.5, 0.5], loss=1.25)
    assert (found.pearson, found.spearman) == (0, 0)


def test_a_diverged_model_has_metrics():
    found = RegressionScores.of([1, 2], [0.5, math.nan], loss=math.nan)
    assert (found.pearson, found.mean_absolute_error) == (0, math.inf)
