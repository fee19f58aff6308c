"""Linear probes: what the frozen features are worth with all rows in one place.

A method that does not beat them has taught the layers below the head nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.convergence.curves import Final, Point
from benchmarks.convergence.encoder import PassShares, features_of, load_encoder, tokenised
from benchmarks.convergence.settings import LogisticSettings, Pooling, RidgeSettings, SgdSettings
from benchmarks.convergence.tasks import TaskFiles
from fwdllm_server.simulation.population import Population

Matrix: TypeAlias = NDArray[np.floating[Any]]
Classes: TypeAlias = NDArray[np.int32]
_PASSES_OF_A_STEP = 3  # forwards and backwards, the latter counted as two


@dataclass(frozen=True)
class _Features:
    """Standardised by the training rows, a column of ones last, and the classes."""

    training: tuple[Matrix, Classes]
    validation: tuple[Matrix, Classes]
    measured: tuple[Matrix, Classes]
    test: tuple[Matrix, Classes]
    head_share: float

    @classmethod
    def of(cls, files: TaskFiles, measured_on: str, pooling: Pooling = "mean") -> _Features:
        model = load_encoder(files.task, pooling)
        datasets = tokenised(files, "training", "validation", measured_on, "test")
        features = [features_of(model, dataset) for dataset in datasets]
        centre, scale = features[0].mean(axis=0), features[0].std(axis=0) + 1e-6
        parts = [
            (np.column_stack([(rows - centre) / scale, np.ones(len(rows))]), dataset.labels)
            for rows, dataset in zip(features, datasets, strict=True)
        ]
        head_share = PassShares.of(model).of_head(float(datasets[0].lengths.mean()))
        return cls(parts[0], parts[1], parts[2], parts[3], head_share)


def ridge(
    files: TaskFiles, _population: Population, _seed: int, settings: RidgeSettings, measured_on: str
) -> Iterator[Point | Final]:
    """Fit ridge regression to one-hot classes: one pass over each training row; its loss is the squared error."""
    found = _Features.of(files, measured_on, settings.pooling)
    rows, classes = found.training
    targets = np.eye(len(files.task.labels))[classes]
    gram, moments, identity = rows.T @ rows, rows.T @ targets, np.eye(rows.shape[1])
    solutions = [np.linalg.solve(gram + penalty * identity, moments) for penalty in settings.penalties]
    best = max(solutions, key=lambda weights: _accuracy(weights, *found.validation))
    squared = float(np.square(rows @ best - targets).sum(axis=1).mean())
    yield Point(1, _accuracy(best, *found.measured), squared, float(len(rows)))
    yield replace(_final(best, *found.test), loss=squared)


def logistic(
    files: TaskFiles, _population: Population, _seed: int, settings: LogisticSettings, measured_on: str
) -> Iterator[Point | Final]:
    """Fit logistic regression until it has converged: one pass over each training row."""
    found = _Features.of(files, measured_on, settings.pooling)
    model = LogisticRegression(fit_intercept=False, warm_start=True, max_iter=settings.iterations, tol=1e-3)
    solutions = [_fitted(model, penalty, *found.training) for penalty in settings.inverse_penalties]
    best = max(solutions, key=lambda weights: _accuracy(weights, *found.validation))
    yield Point(1, _accuracy(best, *found.measured), _loss(best, *found.measured), float(len(found.training[0])))
    yield _final(best, *found.test)


def sgd(
    files: TaskFiles, _population: Population, seed: int, settings: SgdSettings, measured_on: str
) -> Iterator[Point | Final]:
    """Softmax regression: each row passes the frozen layers once, and the head alone after that."""
    found = _Features.of(files, measured_on)
    runs = [_trained(found.training, len(files.task.labels), rate, seed, settings) for rate in settings.rates]
    epochs = max(runs, key=lambda epochs: _accuracy(epochs[-1], *found.validation))
    rows = len(found.training[0])
    for epoch, weights in enumerate(epochs):
        passes = rows * (epoch > 0) + epoch * rows * _PASSES_OF_A_STEP * found.head_share
        yield Point(epoch, _accuracy(weights, *found.measured), _loss(weights, *found.measured), passes)
    yield _final(epochs[-1], *found.test)


def _fitted(model: LogisticRegression, inverse_penalty: float, rows: Matrix, classes: Classes) -> Matrix:
    """Return the weights ``[width, labels]``, from the last ones on."""
    model.set_params(C=inverse_penalty).fit(rows, classes)
    weights: Matrix = model.coef_.T.copy()
    # Two classes have one line of weights, the log-odds of the second.
    return weights if weights.shape[1] > 1 else np.column_stack([np.zeros(len(weights)), weights])


def _trained(
    training: tuple[Matrix, Classes], labels: int, rate: float, seed: int, settings: SgdSettings
) -> list[Matrix]:
    """Return the weights before training and after each epoch."""
    rows, classes = training
    random, weights = np.random.default_rng(seed), np.zeros((rows.shape[1], labels))
    kept: list[Matrix] = [weights.copy()]
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    step = 0
    for _ in range(settings.epochs):
        order = random.permutation(len(rows))
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            error = _probabilities(weights, rows[batch])
            error[np.arange(len(batch)), classes[batch]] -= 1
            weights -= rate * (1 - step / steps) * rows[batch].T @ error / len(batch)
            step += 1
        kept.append(weights.copy())
    return kept


def _probabilities(weights: Matrix, rows: Matrix) -> Matrix:
    logits = rows @ weights
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Matrix = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _accuracy(weights: Matrix, rows: Matrix, classes: Classes) -> float:
    return float(((rows @ weights).argmax(axis=1) == classes).mean())


def _final(weights: Matrix, rows: Matrix, classes: Classes) -> Final:
    labels = list(map(str, range(weights.shape[1])))
    return Final.of(labels, classes.tolist(), _probabilities(weights, rows).tolist())


def _loss(weights: Matrix, rows: Matrix, classes: Classes) -> float:
    chosen = _probabilities(weights, rows)[np.arange(len(rows)), classes]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())
