from dataclasses import replace

import numpy as np
import pytest
from client.engine.tiny_bundle import ROWS, make_dataset

from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine, runs
from fwdllm_client.engine.batches import distinct_rows, sample_rows
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError, NotAllowedError

DIRECTIONS = Directions(11)
GAUSSIAN = Directions(11, "gaussian")
SEEDS = np.array([5, 2**64 - 1, 77, 1234567890123, 9], dtype=np.uint64)
EPSILON = 1e-3


def measure(engine, theta, task, rows, directions=DIRECTIONS):
    chunks = list(engine.derivatives(theta, directions, task, rows))
    assert [first for first, _ in chunks] == list(np.cumsum([0, *(len(values) for _, values in chunks[:-1])]))
    return np.concatenate([values for _, values in chunks])


def moved(bundle, theta, block, seed, step, directions=DIRECTIONS):
    part = bundle.manifest.layout.block(block)
    result = theta.astype(np.float64)
    result[part.slice] += step * directions.vector(int(seed), part.start, part.stop)
    return result


@pytest.mark.parametrize("block", ["peft", "head"])
@pytest.mark.parametrize("batch_size", [3, 16, 1000])
def test_derivatives_equal_float64_numpy(bundle, dataset, engine, theta, block, batch_size):
    rows = np.arange(0, len(dataset), 2)
    task = DirectionTask(block, SEEDS, EPSILON, batch_size)
    found = measure(engine, theta, task, rows)
    batch = sample_rows(DIRECTIONS.run_key, int(SEEDS[0]), rows, batch_size)

    def loss(seed, step):
        return bundle.loss(dataset, batch, moved(bundle, theta, block, seed, step))

    step = float(np.float32(EPSILON))
    one_sided = [(loss(seed, step) - loss(seed, 0)) / step for seed in SEEDS]
    np.testing.assert_allclose(found, one_sided, atol=1e-3)
    exact = [(loss(seed, 1e-6) - loss(seed, -1e-6)) / 2e-6 for seed in SEEDS]
    np.testing.assert_allclose(found, exact, atol=EPSILON * theta.size)


@pytest.mark.parametrize("directions", [DIRECTIONS, GAUSSIAN], ids=["rademacher", "gaussian"])
@pytest.mark.parametrize("block", ["peft", "head"])
def test_central_differences_equal_float64_numpy(bundle, dataset, engine, theta, block, directions):
    """ε is so large that the one-sided difference is far off, and the central one off by its ε² term: both are seen."""
    rows, step = np.arange(0, len(dataset), 2), 0.25
    found = measure(engine, theta, DirectionTask(block, SEEDS, step, 16, central=True), rows, directions)
    batch = sample_rows(directions.run_key, int(SEEDS[0]), rows, 16)

    def loss(seed, step):
        return bundle.loss(dataset, batch, moved(bundle, theta, block, seed, step, directions))

    central = np.array([(loss(seed, step) - loss(seed, -step)) / (2 * step) for seed in SEEDS])
    one_sided = np.array([(loss(seed, step) - loss(seed, 0)) / step for seed in SEEDS])
    exact = np.array([(loss(seed, 1e-6) - loss(seed, -1e-6)) / 2e-6 for seed in SEEDS])
    np.testing.assert_allclose(found, central, atol=1e-5)
    assert np.abs(central - exact).max() > 1e-3
    assert np.abs(central - one_sided).min() > 1e-3


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("block", ["peft", "head"])
def test_copies_per_run_do_not_matter(bundle, dataset, theta, block, central, monkeypatch, tmp_path):
    task = DirectionTask(block, np.arange(20, dtype=np.uint64), 1e-2, 10, central)
    rows = np.arange(len(dataset))
    alone, chunks = [], []
    for budget in (1, 300, 1 << 20):
        monkeypatch.setattr(runs, "FLOATS_PER_RUN", budget)
        with Engine(bundle.folder, bundle.manifest, dataset, tmp_path, threads=1, tokens_per_run=budget) as engine:
            alone.append(measure(engine, theta, task, rows))
            chunks.append(len(list(engine.derivatives(theta, DIRECTIONS, task, rows))))
    np.testing.assert_allclose(alone[1], alone[0], atol=1e-4)
    np.testing.assert_allclose(alone[2], alone[0], atol=1e-4)
    assert chunks[0] == 20 > chunks[1] >= chunks[2] == 1


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("block", ["peft", "head"])
def test_an_interrupted_task_goes_on_with_the_same_batch(engine, dataset, theta, block, central):
    rows = np.arange(len(dataset))
    task = DirectionTask(block, SEEDS, EPSILON, 10, central)
    whole = measure(engine, theta, task, rows)
    chunks = list(engine.derivatives(theta, DIRECTIONS, replace(task, done=2), rows))
    assert chunks[0][0] == 2
    np.testing.assert_allclose(np.concatenate([values for _, values in chunks]), whole[2:], atol=1e-3)


def test_the_caller_can_stop_between_chunks(engine, dataset, theta, monkeypatch):
    monkeypatch.setattr(runs, "FLOATS_PER_RUN", 1)
    task = DirectionTask("head", np.arange(1000, dtype=np.uint64), EPSILON, 4)
    chunks = engine.derivatives(theta, DIRECTIONS, task, np.arange(len(dataset)))
    first, values = next(chunks)
    assert (first, values.shape, values.dtype) == (0, (1,), np.float64)
    passes = engine.example_passes
    chunks.close()
    assert engine.example_passes == passes


def test_example_passes_count_shares_of_a_pass(bundle, dataset, theta, tmp_path):
    rows = np.arange(len(dataset))
    task = DirectionTask("peft", np.arange(10, dtype=np.uint64), EPSILON, 1000)
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path, threads=1) as engine:
        measure(engine, theta, task, rows)
        first = engine.example_passes
        measure(engine, theta, task, rows)
        second = engine.example_passes - first
    # The frozen prefix, about half of this model, runs once per row; the rest once for the base and each direction.
    assert second < 11 * len(rows) < 2.2 * second
    assert 0.9 * (len(rows) - second / 11) < first - second < 1.1 * (len(rows) - second / 11)


@pytest.mark.parametrize(("central", "passes"), [(False, 10 + 1), (True, 2 * 10)])
def test_directions_cost_one_pass_each_and_one_for_the_base_or_two_each(
    bundle, dataset, theta, tmp_path, central, passes
):
    """Counted in passes from the perturbed block on, once the cache is warm."""
    rows = np.arange(len(dataset))
    one = DirectionTask("peft", np.arange(1, dtype=np.uint64), EPSILON, 1000, central=True)
    task = replace(one, seeds=np.arange(10, dtype=np.uint64), central=central)
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path, threads=1) as engine:
        measure(engine, theta, one, rows)
        warm = engine.example_passes
        measure(engine, theta, one, rows)
        two_passes = engine.example_passes - warm
        measure(engine, theta, task, rows)
        assert engine.example_passes - warm - two_passes == pytest.approx(passes * two_passes / 2)


def test_a_diverged_model_gives_values_that_are_not_finite(engine, dataset, theta):
    theta[:] = np.nan
    task = DirectionTask("head", SEEDS, EPSILON, 4)
    assert not np.isfinite(measure(engine, theta, task, np.arange(len(dataset)))).any()


@pytest.mark.parametrize(
    ("seeds", "epsilon", "batch_size"),
    [
        ([], 1e-3, 4),
        ([1], 0.0, 4),
        ([1], -1.0, 4),
        ([1], float("nan"), 4),
        ([1], 1e-60, 4),
        ([1], 1e39, 4),
        ([1], 1e-3, 0),
    ],
)
def test_impossible_tasks_are_refused(seeds, epsilon, batch_size):
    with pytest.raises(BadInputError):
        DirectionTask("head", np.array(seeds, dtype=np.uint64), epsilon, batch_size)


def test_unknown_blocks_and_missing_rows_are_refused(engine, theta):
    with pytest.raises(BadInputError, match="unknown block 'body'; this model has peft, head"):
        next(engine.derivatives(theta, DIRECTIONS, DirectionTask("body", SEEDS, EPSILON, 4), np.arange(4)))
    with pytest.raises(BadInputError, match="no rows to train on"):
        next(engine.derivatives(theta, DIRECTIONS, DirectionTask("head", SEEDS, EPSILON, 4), np.arange(0)))


def test_a_batch_of_fewer_rows_than_required_is_refused(engine, theta):
    engine.require(8)
    task = DirectionTask("head", SEEDS, EPSILON, batch_size=7)
    with pytest.raises(NotAllowedError, match="asks for scalars over 7 rows, this device gives them over 8 or more"):
        list(engine.derivatives(theta, DIRECTIONS, task, np.arange(ROWS)))


def test_rows_that_say_the_same_count_once(bundle, theta, tmp_path):
    """Eight texts, five times each: a batch of eight has to go on until it has all of them."""
    once = make_dataset(8)
    lengths = np.tile(once.lengths, 5)
    repeated = Dataset(np.tile(once.token_ids, 5), np.cumsum([0, *lengths], dtype=np.int64), np.tile(once.labels, 5))
    task = DirectionTask("head", SEEDS, EPSILON, batch_size=8)
    rows = np.arange(40)
    assert distinct_rows(repeated, sample_rows(DIRECTIONS.run_key, int(SEEDS[0]), rows, 8)) < 8

    with Engine(bundle.folder, bundle.manifest, repeated, tmp_path / "cache") as engine:
        free = measure(engine, theta, task, rows)
        engine.require(8)
        assert not np.allclose(free, measure(engine, theta, task, rows))
        engine.require(9)
        with pytest.raises(NotAllowedError, match="has not the 9 distinct rows that its owner wants"):
            measure(engine, theta, replace(task, batch_size=9), rows)
