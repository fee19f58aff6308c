"""Whose rows are whose, and who is there: drawn from a seed."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from fwdllm_client.data import Dataset
from fwdllm_common.errors import BadInputError
from fwdllm_server.simulation.population import Population

LABELS = ("a", "b", "c", "d")


def dataset(rows: int = 2000, seed: int = 0) -> Dataset:
    labels = np.random.default_rng(seed).integers(0, len(LABELS), rows).astype(np.int32)
    return Dataset(np.ones(rows, dtype=np.int32), np.arange(rows + 1), labels)


def draw(data: Dataset, users=None, **keys):
    return Population(**keys).draw(data, LABELS, users)


def rows_of(devices) -> list[int]:
    return sorted(int(row) for device in devices for row in (*device.training, *device.validation))


def skew(devices, labels) -> float:
    """The mean share of a device's most frequent label."""
    return float(np.mean([np.bincount(labels[device.training]).max() / len(device.training) for device in devices]))


@pytest.mark.parametrize("devices", [1, 7, 2000])
@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_every_row_is_one_devices_and_all_have_as_many(devices, partition):
    drawn = draw(dataset(), devices=devices, partition=partition, alpha=0.3)
    sizes = {len(device.training) for device in drawn}

    assert len(drawn) == devices
    assert rows_of(drawn) == list(range(2000))
    assert max(sizes) - min(sizes) <= 1


def test_mixtures_get_more_skewed_as_alpha_falls():
    data = dataset()
    found = [skew(draw(data, devices=40, partition="dirichlet", alpha=alpha), data.labels) for alpha in (100, 1, 0.1)]

    assert skew(draw(data, devices=40), data.labels) < found[0] + 0.1
    assert found[0] + 0.1 < found[1] < found[2] - 0.1


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_extreme_mixtures_can_be_drawn(alpha):
    assert rows_of(draw(dataset(), devices=50, partition="dirichlet", alpha=alpha)) == list(range(2000))


def test_few_of_a_mixtures_rows_are_a_mixture_too():
    data = dataset()
    few = draw(data, devices=10, partition="dirichlet", alpha=1000.0, rows_per_device=40)

    assert {len(device.training) for device in few} == {40}
    assert skew(few, data.labels) < 0.5


def test_a_device_for_each_user_those_with_the_most_rows_first():
    users = ["zoe", "ann", "ann", "bob", "zoe", "ann", "cy"]
    data = dataset(len(users))
    devices = draw(data, users, devices=3, partition="user")

    assert [device.training.tolist() for device in devices] == [[1, 2, 5], [0, 4], [3]]
    assert len(draw(data, users, devices=9, partition="user")) == 4


def test_validation_rows_are_kept_back():
    devices = draw(dataset(), devices=100, validation_fraction=0.25)

    assert {(len(device.training), len(device.validation)) for device in devices} == {(15, 5)}
    assert rows_of(devices) == list(range(2000))


def test_a_device_knows_its_labels():
    data = dataset()
    for device in draw(data, devices=500):
        assert device.labels == {LABELS[label] for label in data.labels[device.training]}


def test_speeds_are_log_normal():
    speeds = np.array([device.passes_per_s for device in draw(dataset(), devices=2000, speed_spread=0.5)])

    assert np.median(speeds) == pytest.approx(50, rel=0.05)
    assert np.log(speeds).std() == pytest.approx(0.5, rel=0.05)
    assert {device.passes_per_s for device in draw(dataset(), devices=9)} == {50.0}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_the_seed_decides(partition):
    def facts(seed):
        drawn = draw(dataset(), devices=20, partition=partition, speed_spread=1.0, seed=seed)
        return [(device.id, device.passes_per_s, device.training.tolist()) for device in drawn]

    assert facts(1) == facts(1)
    assert facts(1) != facts(2)
    assert facts(1) != facts(1 << 40)


def test_devices_are_there_as_often_as_asked():
    population = Population(availability=0.2, seed=3)
    found = np.array([population.present(slot, 500) for slot in range(40)])

    assert found.mean() == pytest.approx(0.2, abs=0.01)
    assert found.mean(axis=0).max() < 0.6
    np.testing.assert_array_equal(found[7], population.present(7, 500))
    assert Population().present(0, 5).all()


def test_devices_vanish_as_often_as_asked():
    fates = [Population(dropout_rate=0.3).vanishes(f"simulated-1-{number}") for number in range(2000)]
    parts = [part for part in fates if part is not None]

    assert len(parts) / 2000 == pytest.approx(0.3, abs=0.03)
    assert np.mean(parts) == pytest.approx(0.5, abs=0.05)
    assert Population().vanishes("simulated-1-1") is None


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(BadInputError, match="5 rows are too few for 6 devices; simulate fewer"):
        draw(dataset(5), devices=6)
    with pytest.raises(BadInputError, match="a partition by user needs the data file's user column"):
        draw(dataset(5), devices=2, partition="user")


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"availability": 0}, {"dropout_rate": 1}, {"devices": 0}, {"speed": 1}]
)
def test_wrong_populations_are_refused(wrong):
    with pytest.raises(ValidationError):
        Population(**wrong)
