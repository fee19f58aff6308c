"""Attention poolings on cached frozen states: the same numbers in PyTorch, on devices and from a saved adapter."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from peft import PeftModel
from server.model.conftest import (
    LABELS,
    MAX_TOKENS,
    ROWS,
    TEXTS,
    Prepared,
    batch,
    load_theta,
    prepare,
    rows,
    save_model,
)

from fwdllm_client.engine import DeviceEngines, DirectionTask, Engine
from fwdllm_client.engine.batches import Text
from fwdllm_client.engine.sessions import Cpu, Session
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.known_answers import KnownAnswerTest
from fwdllm_common.manifest import MANIFEST_FILE, Manifest, Stage
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.adapter import BASE_FOLDER, write_adapter
from fwdllm_server.model.adapter_template import Reading, load_base_of, save_adapter_template, tokenizer_for
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.modeling_fwdllm import position_bucket
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.peft.side import side_of
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.model.trainable import initial_theta, saved_parameters
from fwdllm_server.simulation.cost import PassCounter

SIDE = PeftSpec(method="side")
BLOCKS = ["pooling", "readout", "head"]
ROOM = 1 << 20
MODELS = {"bert": "layer-means", "llama": "layer-means", "albert": "mean"}


@pytest.fixture(scope="module")
def side_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    """Each model by name, exported once."""
    made: dict[str, Prepared] = {}

    def get(name: str) -> Prepared:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = prepare(save_model(name, folder / "model"), MODELS[name], SIDE, folder / "bundle")
        return made[name]

    return get


@pytest.fixture(params=list(MODELS))
def prepared(request: pytest.FixtureRequest, side_models: Callable[[str], Prepared]) -> Prepared:
    return side_models(request.param)


@pytest.fixture
def bert(side_models: Callable[[str], Prepared]) -> Prepared:
    return side_models("bert")


@pytest.fixture(autouse=True)
def _restore(side_models: Callable[[str], Prepared], request: pytest.FixtureRequest):
    """Shared models keep their initial weights."""
    shared = [request.getfixturevalue(name) for name in ("prepared", "bert") if name in request.fixturenames]
    before = [initial_theta(one.model, one.layout) for one in shared]
    yield
    for one, theta in zip(shared, before, strict=True):
        load_theta(one.model, one.layout, theta)


class Counting(Cpu):
    """Knows which graphs were opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        self.opened.append(stage.graph.name)
        return super().open(folder, stage, threads)


def scalars(engine: Engine, theta: np.ndarray, block: str, count: int = 5, batch_size: int = 6, **options: Any):
    task = DirectionTask(block, np.arange(count, dtype=np.uint64), 1e-3, batch_size, **options)
    return np.concatenate([values for _, values in engine.derivatives(theta, Directions(1), task, ROWS)])


def answers(prepared: Prepared, folder: Path, limit: int = ROOM, provider: Cpu | None = None) -> list[np.ndarray]:
    """Scalars of every block, an evaluation, and class sums."""
    theta = prepared.theta(1)[0]
    with Engine(prepared.folder, prepared.manifest, rows(), folder, 1, limit, provider or Cpu()) as engine:
        found = [scalars(engine, theta, block) for block in BLOCKS]
        evaluation = engine.evaluate(theta, ROWS)
        found.append(np.array([evaluation.loss, evaluation.correct]))
        found.extend(each.features for each in engine.class_sums(theta, ROWS))
    return found


def plain_logits(prepared: Prepared, ids: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """The logits of one text without padding, written out in float64."""
    base = prepared.model.get_base_model()
    side, weights = side_of(base), prepared.layout.unpack(theta.astype(np.float32))
    named = {name.rpartition("model.")[2]: value.astype(np.float64) for name, value in weights.items()}
    text = torch.from_numpy(ids[None])
    with torch.no_grad():
        output = base.backbone(input_ids=text, attention_mask=torch.ones_like(text), output_hidden_states=True)
    states = [output.hidden_states[layer][0].double().numpy() for layer in side.sizes["layers"]]
    states.append(output.last_hidden_state[0].double().numpy())
    numbers = []
    for depth, state in enumerate(states):
        unit = state / np.sqrt((state**2).mean(axis=1, keepdims=True) + 1e-6)
        mean, directions = (side.compression.get_parameter(name)[depth] for name in ("mean", "directions"))
        numbers.append((unit - mean.double().numpy()) @ directions.double().numpy())
    values = np.concatenate(numbers, axis=1)
    pools = []
    for query, bias in zip(named["side.pooling.queries"], named["side.pooling.positions"], strict=True):
        scores = np.array([value @ query + bias[position_bucket(place)] for place, value in enumerate(values)])
        weight = np.exp(scores - scores.max())
        pools.append(weight @ values / weight.sum())
    layers = len(output.hidden_states) - 1
    pooled = [states[-1]] if prepared.pooling == "mean" else [states[-1], states[0]]
    if prepared.pooling == "layer-means":
        pooled.append(output.hidden_states[layers // 2][0].double().numpy())
    features = np.concatenate([state.mean(axis=0) for state in pooled])
    if prepared.pooling == "layer-means":
        centring = prepared.model.get_base_model().centring
        features -= centring.modules_to_save["default"].mean.double().numpy()
    head = named["classifier.weight"] @ features + named["classifier.bias"]
    return np.concatenate(pools) @ named["side.readout.weight"].T + head


def test_blocks_and_their_sizes(prepared: Prepared) -> None:
    layers, width = (3, 96) if prepared.pooling == "layer-means" else (3, 32)
    numbers = (layers + 1) * 32
    assert {name: block.size for name, block in prepared.layout.blocks.items()} == {
        "pooling": 8 * numbers + 8 * (position_bucket(MAX_TOKENS - 1) + 1),
        "readout": 3 * 8 * numbers,
        "head": 3 * width + 3,
    }
    manifest = Manifest.from_bytes((prepared.folder / MANIFEST_FILE).read_bytes())
    assert manifest == prepared.manifest
    assert (manifest.features, manifest.head_width) == (width, width)
    assert [stage.block for stage in manifest.stages] == [None, *BLOCKS]


def test_position_buckets_never_skip_one() -> None:
    buckets = [position_bucket(position) for position in range(8192)]
    assert buckets[:16] == list(range(16))
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(buckets))
    assert buckets[-1] == 51


def test_numbers_are_centred_and_as_strong_in_every_depth(prepared: Prepared) -> None:
    base = prepared.model.get_base_model()
    sample = TextSample(TEXTS, load_tokenizer_file(prepared.source), MAX_TOKENS)
    found = []
    with torch.no_grad():
        for texts in sample.batches():
            numbers = side_of(base).compressed(base.states(**texts))
            found.append(numbers[texts["attention_mask"].bool()])
    numbers = torch.cat(found).reshape(-1, 4, 32)
    torch.testing.assert_close(numbers.mean(dim=0), torch.zeros(4, 32), rtol=0, atol=1e-4)
    variances = numbers.var(dim=0, unbiased=False)
    torch.testing.assert_close(variances[:, 0], torch.ones(4), rtol=1e-3, atol=1e-3)
    assert (variances.diff(dim=1) < 1e-4).all()


@pytest.mark.parametrize("block", BLOCKS)
def test_graphs_equal_the_plain_formula_for_every_copy(prepared: Prepared, block: str) -> None:
    manifest, layout = prepared.manifest, prepared.layout
    feeds, copies = batch(4, 11), prepared.theta(3)
    others = prepared.theta(1, seed=9)[0]
    chain = StageChain(prepared.folder, manifest, Cpu(), 1)
    text = Text(feeds["input_ids"], feeds["attention_mask"])
    activation, features = chain.with_features(0, text, None)
    thetas = {name: others[None, layout.block(name).slice] for name in BLOCKS}
    thetas[block] = copies[:, layout.block(block).slice]
    loss, logits = chain.loss(1, text, activation, feeds["labels"], list(thetas.values()), ("loss", "logits"), features)
    expected = np.empty((3, 4, len(LABELS)))
    for copy, vector in enumerate(copies):
        theta = others.copy()
        theta[layout.block(block).slice] = vector[layout.block(block).slice]
        for row, (ids, mask) in enumerate(zip(feeds["input_ids"], feeds["attention_mask"], strict=True)):
            expected[copy, row] = plain_logits(prepared, ids[: mask.sum()], theta)
    expected = expected.reshape(12, -1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    losses = np.log(np.exp(expected).sum(axis=1)) - expected[np.arange(12), np.tile(feeds["labels"], 3)]
    np.testing.assert_allclose(loss, losses, rtol=1e-4, atol=1e-4)
    assert np.ptp(losses.reshape(3, 4), axis=0).min() > 1e-3


def test_a_model_starts_as_its_head_alone(prepared: Prepared) -> None:
    theta = initial_theta(prepared.model, prepared.layout)
    head = prepared.layout.block("head").slice
    theta[head] = prepared.theta(1)[0, head]
    load_theta(prepared.model, prepared.layout, theta)
    base = prepared.model.get_base_model()
    feeds = {name: torch.from_numpy(value) for name, value in batch(4, 9).items()}
    text = {name: feeds[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        features = base.features(base.states(**text), text["attention_mask"])
        torch.testing.assert_close(prepared.model(**text).logits, base.classifier(features))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("central", [False, True])
def test_scalars_are_directional_derivatives(prepared: Prepared, block: str, central: bool, tmp_path: Path) -> None:
    """Against vᵀ∇L from autograd."""
    theta, dataset, count = prepared.theta(1)[0], rows(), 6
    with Engine(prepared.folder, prepared.manifest, dataset, tmp_path, 1, ROOM) as engine:
        found = scalars(engine, theta, block, count, batch_size=len(ROWS), central=central)
    load_theta(prepared.model, prepared.layout, theta)
    losses = []
    for row in ROWS:
        ids = torch.from_numpy(dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]].astype(np.int64))
        logits = prepared.model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([int(dataset.labels[row])])))
    torch.stack(losses).mean().backward()
    parameters = saved_parameters(prepared.model)
    gradient = prepared.layout.pack({spec.name: parameters[spec.name].grad.numpy() for spec in prepared.layout.tensors})
    for parameter in parameters.values():
        parameter.grad = None
    place = prepared.layout.block(block)
    expected = [
        float(Directions(1).vector(seed, place.start, place.stop) @ gradient[place.slice]) for seed in range(count)
    ]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0.03, atol=(0.02 if central else 0.05) * scale)
    assert scale > 1e-2


def test_directions_of_one_run_are_those_of_many(bert: Prepared, tmp_path: Path, monkeypatch) -> None:
    theta = bert.theta(1)[0]
    with Engine(bert.folder, bert.manifest, rows(), tmp_path, 1, ROOM) as engine:
        together = [scalars(engine, theta, block) for block in BLOCKS]
        monkeypatch.setattr("fwdllm_client.engine.runs.FLOATS_PER_RUN", 1)
        alone = [scalars(engine, theta, block) for block in BLOCKS]
    for found, expected in zip(alone, together, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_model_is_not_loaded_once_its_states_are_kept(bert: Prepared, tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    expected = answers(bert, tmp_path, provider=first)
    found = answers(bert, tmp_path, provider=second)
    assert first.opened.count("prefix.onnx") > 0
    assert set(second.opened) == {"pooling.onnx", "readout.onnx", "head.onnx"}
    for values, its in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, its)


def test_an_agent_that_starts_again_does_not_load_the_model(bert: Prepared, tmp_path: Path, monkeypatch) -> None:
    """Not for its tuning, nor for its known-answer test, nor for rows that it has seen."""
    test = KnownAnswerTest(
        rows=[[2, 3, 4, 5], [6, 7]],
        labels=[0, 1],
        theta=bert.theta(1)[0],
        epsilons=dict.fromkeys(BLOCKS, 1e-3),
        central=False,
        expected={},
        float32={},
    )
    opened: list[str] = []
    original = StageChain.session

    def session(chain: StageChain, stage: int) -> Session:
        opened.append(chain.manifest.stages[stage].graph.name)
        return original(chain, stage)

    monkeypatch.setattr(StageChain, "session", session)

    def start() -> list[np.ndarray]:
        opened.clear()
        engines = DeviceEngines(bert.folder, bert.manifest, rows(), tmp_path / "cache", threads=1)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*")) <= sum(engines.files.values())
        tuning = engines.tuner.tuning()
        with engines.open(tuning) as engine:
            own = scalars(engine, bert.theta(1)[0], "pooling", batch_size=len(ROWS))
        return [own, *map(np.array, engines.known_answer_scalars(tuning, test).values())]

    expected = start()
    assert "prefix.onnx" in opened
    found = start()
    assert set(opened) == {"pooling.onnx", "readout.onnx", "head.onnx"}
    for values, its in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, its)


@pytest.mark.parametrize("limit", [0, 20_000])
def test_the_room_of_the_cache_changes_no_bit(bert: Prepared, limit: int, tmp_path: Path) -> None:
    expected, found = answers(bert, tmp_path / "a"), answers(bert, tmp_path / "b", limit)
    for values, its in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, its)
    (kept,) = (tmp_path / "b").iterdir()
    assert kept.stat().st_size <= limit


def test_a_row_takes_a_few_bytes_for_each_token(bert: Prepared, tmp_path: Path) -> None:
    answers(bert, tmp_path)
    (kept,) = tmp_path.iterdir()
    entry, numbers, features = 8, 2 * 4 * 32, 2 * 256  # 96 floats of features are two lines of 128 numbers
    assert kept.stat().st_size == len(ROWS) * (entry + features) + int(rows().lengths.sum()) * numbers


@pytest.mark.parametrize("damage", [b"\x00", b"\xff"])
def test_a_damaged_cache_changes_no_bit(bert: Prepared, damage: bytes, tmp_path: Path) -> None:
    expected = answers(bert, tmp_path)
    (kept,) = tmp_path.iterdir()
    data = bytearray(kept.read_bytes())
    data[8 * len(ROWS) + 3 :: 50] = damage * len(data[8 * len(ROWS) + 3 :: 50])
    kept.write_bytes(data)
    for values, its in zip(answers(bert, tmp_path), expected, strict=True):
        np.testing.assert_array_equal(values, its)


def test_a_prefix_in_parts_gives_the_same_bits(bert: Prepared, tmp_path: Path) -> None:
    split = prepare(bert.source, "layer-means", SIDE, tmp_path / "bundle", stage_weights=1)
    assert [stage.block for stage in split.manifest.stages] == [None] * 4 + BLOCKS
    for values, its in zip(answers(split, tmp_path / "a"), answers(bert, tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(values, its)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_only_the_model_is_quantised(bert: Prepared, precision: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bert.folder, folder, copy_function=shutil.copyfile)
    small = replace(bert, folder=folder, manifest=quantise_bundle(folder, bert.manifest, precision))
    graph = onnx.load(folder / "prefix.onnx").graph
    kept = [value for value in graph.initializer if list(value.dims) == [4, 1, 32, 32]]
    assert [value.data_type for value in kept] == [onnx.TensorProto.FLOAT]
    assert any(node.op_type == "MatMulNBits" for node in graph.node)
    changed = [
        stage.graph.name for stage, its in zip(small.manifest.stages, bert.manifest.stages, strict=True) if stage != its
    ]
    assert changed == ["prefix.onnx"]
    if precision == "int8":
        for values, its in zip(answers(small, tmp_path / "a"), answers(bert, tmp_path / "b"), strict=True):
            np.testing.assert_allclose(values, its, rtol=0.2, atol=0.2 * np.abs(its).max())


def test_a_saved_adapter_predicts_what_devices_compute(prepared: Prepared, tmp_path: Path) -> None:
    theta, dataset = prepared.theta(1)[0], rows()
    tokenizer = tokenizer_for(prepared.source, load_tokenizer_file(prepared.source), MAX_TOKENS)
    save_adapter_template(prepared.model, tokenizer, Reading(MAX_TOKENS), tmp_path / "template")
    write_adapter(tmp_path / "template", prepared.layout, theta, tmp_path / "out")
    assert json.loads((tmp_path / "out" / BASE_FOLDER / "config.json").read_text())["side"]["poolings"] == 8
    loaded = PeftModel.from_pretrained(load_base_of(tmp_path / "out"), tmp_path / "out").eval()
    for row in range(3):
        ids = dataset.token_ids[dataset.offsets[row] : dataset.offsets[row + 1]].astype(np.int64)
        with torch.no_grad():
            found = loaded(input_ids=torch.from_numpy(ids[None]), attention_mask=torch.ones(1, len(ids)).long()).logits
        np.testing.assert_allclose(found[0], plain_logits(prepared, ids, theta), rtol=1e-4, atol=1e-4)


def test_simulated_devices_count_the_passes_that_engines_count(bert: Prepared, tmp_path: Path) -> None:
    dataset, theta = rows(), bert.theta(1)[0]
    counter = PassCounter(bert.manifest, dataset, 1)
    with Engine(bert.folder, bert.manifest, dataset, tmp_path, 1, ROOM) as engine:
        for block in BLOCKS:
            task = DirectionTask(block, np.arange(5, dtype=np.uint64), 1e-3, 6)
            before = engine.example_passes
            for _ in engine.derivatives(theta, Directions(1), task, ROWS):
                pass
            once, each = counter.task(task, theta, ROWS)
            assert engine.example_passes - before == pytest.approx(once + 5 * each)
        before = engine.example_passes
        engine.evaluate(theta, ROWS)
        assert engine.example_passes - before == pytest.approx(counter.evaluation(theta, ROWS))


def test_a_head_can_begin_with_class_means(bert: Prepared) -> None:
    head = LinearHead.of(bert.manifest)
    assert (head.classes, head.width, head.bias.stop) == (len(LABELS), 96, bert.layout.size)


def test_features_of_another_width_than_announced_are_refused(bert: Prepared, tmp_path: Path) -> None:
    wrong = replace(bert.manifest, features=95)
    with Engine(bert.folder, wrong, rows(), tmp_path, 1, ROOM) as engine, pytest.raises(BadInputError, match="says 95"):
        engine.evaluate(bert.theta(1)[0], ROWS)


def test_side_modules_need_texts_and_means(bert: Prepared) -> None:
    with pytest.raises(BadInputError, match="needs unlabelled texts"):
        apply_peft(load_base(bert.source, LABELS, "layer-means"), SIDE, 0)
    sample = TextSample(TEXTS, load_tokenizer_file(bert.source), MAX_TOKENS)
    with pytest.raises(BadInputError, match="layer-means"):
        apply_peft(load_base(bert.source, LABELS, "model"), SIDE, 0, sample)
