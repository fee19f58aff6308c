"""Whether and what the cache holds never changes a number, only how much is computed."""

from contextlib import contextmanager

import numpy as np
import pytest
from client.engine.tiny_bundle import make_dataset, write_bundle

from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.directions import Directions

ROWS = np.arange(40)
TASKS = [DirectionTask(block, np.arange(3, dtype=np.uint64), 1e-3, 12) for block in ("peft", "head")]


@pytest.fixture
def computed(monkeypatch):
    """Stages run without a perturbation, in order."""
    runs = []
    original = StageChain.activation

    def spy(self, stage, *args):
        runs.append(stage)
        return original(self, stage, *args)

    monkeypatch.setattr(StageChain, "activation", spy)
    return runs


@pytest.fixture
def opened(bundle, dataset, tmp_path):
    @contextmanager
    def open_engine(limit=1 << 20, dataset=dataset, bundle=bundle):
        with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", 1, limit) as engine:
            yield engine

    return open_engine


def numbers(engine, theta):
    values = [values for task in TASKS for _, values in engine.derivatives(theta, Directions(3), task, ROWS)]
    evaluation = engine.evaluate(theta, ROWS)
    return np.concatenate([*values, [evaluation.loss, evaluation.correct]]).tobytes()


@pytest.mark.parametrize("limit", [0, 2000, 5000, 1 << 20])
def test_a_limit_changes_no_bit(opened, theta, limit, tmp_path):
    with opened() as engine:
        expected = numbers(engine, theta)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    with opened(limit) as engine:
        assert numbers(engine, theta) == expected
        assert numbers(engine, theta) == expected
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= limit


def test_a_restart_computes_nothing_again(opened, theta, computed):
    with opened() as engine:
        expected = numbers(engine, theta)
    computed.clear()
    with opened() as engine:
        assert numbers(engine, theta) == expected
    assert computed == []


def test_another_theta_invalidates_features_but_not_the_prefix(bundle, opened, theta, computed):
    with opened() as engine:
        engine.evaluate(theta, ROWS)
        assert sorted(computed) == [0] * len(ROWS) + [1] * len(ROWS)
        computed.clear()
        other_head = theta.copy()
        other_head[bundle.manifest.layout.block("head").slice] += 1
        engine.evaluate(other_head, ROWS)
        assert computed == []
        other_peft = theta.copy()
        other_peft[0] += 1
        found = engine.evaluate(other_peft, ROWS)
        assert computed == [1] * len(ROWS)
    assert found.loss == pytest.approx(bundle.loss(make_dataset(), ROWS, other_peft), rel=1e-5)


@pytest.mark.parametrize("damage", ["flip", "truncate", "garbage", "empty", "longer"])
def test_a_damaged_file_changes_no_bit(opened, theta, damage, tmp_path):
    with opened() as engine:
        expected = numbers(engine, theta)
    for path in (tmp_path / "cache").iterdir():
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[8 * len(ROWS) + 5 :: 100] = bytes(byte ^ 4 for byte in data[8 * len(ROWS) + 5 :: 100])
        path.write_bytes(
            {
                "flip": bytes(data),
                "truncate": bytes(data[: len(data) // 2]),
                "garbage": np.random.default_rng(0).bytes(len(data)),
                "empty": b"",
                "longer": bytes(data) + b"x" * 1000,
            }[damage]
        )
    with opened() as engine:
        assert numbers(engine, theta) == expected
    with opened() as engine:
        assert numbers(engine, theta) == expected


def test_other_rows_and_other_models_have_their_own_files(opened, theta, tmp_path):
    with opened() as engine:
        expected = numbers(engine, theta)
    with opened(dataset=make_dataset(seed=9)) as engine:
        assert numbers(engine, theta) != expected
    with opened(bundle=write_bundle(tmp_path / "other", seed=5)) as engine:
        assert numbers(engine, theta) != expected
    assert len(list((tmp_path / "cache").iterdir())) == 6
    with opened() as engine:
        assert numbers(engine, theta) == expected


def test_files_that_are_not_needed_make_room(opened, theta, tmp_path):
    with opened() as engine:
        numbers(engine, theta)
    sizes = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    with opened(sizes, dataset=make_dataset(seed=9)) as engine:
        numbers(engine, theta)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= sizes


def test_two_engines_may_share_a_file(opened, theta):
    other = theta + np.float32(0.1)
    with opened() as one, opened() as two:
        expected = numbers(one, theta), numbers(two, other)
        assert (numbers(one, theta), numbers(two, other)) == expected


def test_a_full_disk_only_ends_the_caching(opened, theta, monkeypatch, tmp_path):
    with opened() as engine:
        expected = numbers(engine, theta)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with opened() as engine:
        assert numbers(engine, theta) == expected
