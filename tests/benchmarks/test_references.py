"""How the references count, and that they learn: on a tiny model and made-up rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_text import LABELS, save_tiny_model, write_rows

from benchmarks.convergence import backprop, encoder, probes
from benchmarks.convergence.curves import Final, Point
from benchmarks.convergence.settings import (
    FedAvgSettings,
    FedSgdSettings,
    LogisticSettings,
    Pooling,
    RidgeSettings,
    SgdSettings,
)
from benchmarks.convergence.tasks import TASKS, TaskFiles
from fwdllm_server.simulation.population import Population

POPULATION = Population(devices=8)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFiles:
    """A task that the tiny model can learn; it stands in for MiniLM."""
    model = str(save_tiny_model(tmp_path / "model"))
    monkeypatch.setattr(encoder, "minilm_folder", lambda: model)
    for seed, (part, rows) in enumerate({"devices": 240, "validation": 60, "curve": 90, "test": 120}.items()):
        write_rows(tmp_path / f"{part}.csv", rows, seed)
    return TaskFiles(replace(TASKS["bbc_news"], labels=LABELS), tmp_path, max_tokens=16, devices=8)


def run(measured: object) -> tuple[list[Point], Final]:
    *points, final = measured  # type: ignore[misc]
    return points, final


def test_shares_of_a_pass(files: TaskFiles) -> None:
    shares = encoder.PassShares.of(encoder.load_encoder(files.task))
    layer = 4 * 32 * 32 + 2 * 32 * 48
    assert list(shares.layers) == [layer] * 3
    assert shares.from_layer(1) == pytest.approx(2 / 3)
    assert shares.of_head(10) == pytest.approx(3 * 32 / (3 * layer * 10))


def test_ridge_passes_each_training_row_once(files: TaskFiles) -> None:
    points, final = run(probes.ridge(files, POPULATION, 1, RidgeSettings(), "curve"))
    assert [point.example_passes for point in points] == [240]
    assert points[0].accuracy > 0.9
    assert final.rows == 120
    assert final.accuracy > 0.9


@pytest.mark.parametrize("pooling", ["mean", "layer-means"])
def test_logistic_regression_passes_each_training_row_once(files: TaskFiles, pooling: Pooling) -> None:
    points, final = run(probes.logistic(files, POPULATION, 1, LogisticSettings(pooling), "curve"))
    assert [point.example_passes for point in points] == [240]
    assert points[0].accuracy > 0.9
    assert final.accuracy > 0.9
    assert final.macro_f1 == pytest.approx(final.accuracy, abs=0.05)


def test_the_sgd_probe_pays_the_frozen_layers_once(files: TaskFiles) -> None:
    points, final = run(probes.sgd(files, POPULATION, 1, SgdSettings(epochs=3), "curve"))
    passes = [point.example_passes for point in points]
    head = encoder.PassShares.of(encoder.load_encoder(files.task))
    (training,) = encoder.tokenised(files, "training")
    step = 240 * 3 * head.of_head(float(training.lengths.mean()))
    assert passes == pytest.approx([0, 240 + step, 240 + 2 * step, 240 + 3 * step])
    assert final.accuracy > 0.9


def test_a_round_of_fedsgd_counts_forwards_and_backwards_as_deep_as_lora(files: TaskFiles) -> None:
    settings = FedSgdSettings(layers=(-1,), rounds=30, devices=4, batch_size=8, learning_rate=0.01, evaluations=3)
    points, final = run(backprop.fedsgd(files, POPULATION, 1, settings, "curve"))
    assert [point.version for point in points] == [0, 10, 20, 30]
    row = 1 + 2 / 3  # a third of the model is trained, and that backwards counts twice
    assert [point.example_passes for point in points] == pytest.approx([0, *(n * 4 * 8 * row for n in (10, 20, 30))])
    trained = 2 * 2 * 4 * 32 + 3 * 32 + 3  # A and B of query and value, rank 4, and the head
    assert points[-1].bytes_up == points[-1].bytes_down == 30 * 4 * trained * 4
    assert points[-1].loss < points[0].loss
    assert final.accuracy > 0.5


def test_a_round_of_fedavg_is_an_epoch_of_its_devices(files: TaskFiles) -> None:
    settings = FedAvgSettings(rounds=4, devices=8, batch_size=8, learning_rate=0.01, evaluations=4)
    points, _ = run(backprop.fedavg(files, POPULATION, 1, settings, "curve"))
    assert [point.example_passes for point in points] == pytest.approx([n * 240 * 3 for n in range(5)])
    assert points[-1].loss < points[0].loss


def test_fedavg_averages_weights_by_rows(files: TaskFiles) -> None:
    # With one device of all rows it is training on them; with a rate of zero nothing moves, however many devices.
    still = FedAvgSettings(rounds=1, devices=8, learning_rate=0.0, head_learning_rate=0.0, evaluations=1)
    points, _ = run(backprop.fedavg(files, POPULATION, 1, still, "curve"))
    assert points[1].loss == pytest.approx(points[0].loss, rel=1e-6)


def test_references_repeat_themselves(files: TaskFiles) -> None:
    import torch

    settings = FedSgdSettings(layers=(-1,), rounds=2, devices=2, evaluations=1)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append([point.loss for point in run(backprop.fedsgd(files, POPULATION, 1, settings, "curve"))[0]])
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0]).all()
