"""Side modules of a model that generates: the same numbers on devices, in PyTorch and from a saved adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.tiny_completions import completions, save_language_model, write_rows
from peft import PeftModel

from fwdllm_client.data import Dataset
from fwdllm_client.data.dataset import IGNORED
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.audit import audit
from fwdllm_client.engine.sessions import Cpu, Session
from fwdllm_client.tasks.causal_lm import CompletionSource
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError, NotAllowedError
from fwdllm_common.manifest import MANIFEST_FILE, Manifest, Stage
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_server.algorithm.auto import direction_shares
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model
from fwdllm_server.simulation.cost import PassCounter

RANK, HIDDEN, MAX_TOKENS = 8, 32, 16
WIDTH, NUMBERS = RANK // 2, 2 * RANK  # of two layers, the states between them and the last
SIZE = WIDTH * (NUMBERS + 1) + RANK * WIDTH + RANK * NUMBERS
ROWS = np.arange(24)
ROOM = 1 << 20


@dataclass(frozen=True)
class Exported:
    folder: JobFolder
    manifest: Manifest
    dataset: Dataset

    @property
    def theta(self) -> np.ndarray:
        """θ₀ moved, so that every part of the modules has an effect."""
        start = np.load(self.folder.path / "initial_theta.npy")
        return (start + np.random.default_rng(3).normal(0, 0.1, start.shape)).astype(np.float32)

    def engine(self, cache: Path, limit: int = ROOM, provider: Cpu | None = None) -> Engine:
        return Engine(self.folder.bundle, self.manifest, self.dataset, cache, 1, limit, provider or Cpu())


def export(place: Path, source: str, linearised: bool = True, rows: bool = True) -> Exported:
    spec = JobSpec.model_validate(
        {
            "preset": "causal-lm-side",
            "job": {"name": "writing"},
            "model": {"source": source, "task": "causal-lm", "max_tokens": MAX_TOKENS},
            "peft": {"rank": RANK},
            "perturbation": {"linearised_loss": linearised},
            "held_out": {"file": "none.jsonl", "validation": 0.5},
        }
    )
    held_out = CompletionSource(write_rows(place / "held_out.jsonl", completions(40, seed=2)))
    folder = JobFolder(place / f"job-{linearised}")
    export_model(spec, source, folder, (), held_out if rows else None)
    manifest = Manifest.from_bytes((folder.bundle / MANIFEST_FILE).read_bytes())
    own = CompletionSource(write_rows(place / "rows.jsonl", _uneven(len(ROWS))))
    return Exported(folder, manifest, Dataset.load(own, folder.bundle / "tokenizer.json", manifest))


def _uneven(count: int) -> list[dict[str, str]]:
    """Rows of one to five tokens to predict."""
    return [
        {**row, "completion": " " + " ".join(row["completion"].split() * (1 + index % 2))}
        for index, row in enumerate(completions(count, seed=1))
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_language_model(tmp_path_factory.mktemp("source"), unused=16)  # wide enough to be quantised


@pytest.fixture(scope="module")
def exported(source: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("linearised"), source)


@pytest.fixture(scope="module")
def by_differences(source: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("differences"), source, linearised=False)


@pytest.fixture(scope="module")
def adapter(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter at the moved θ, as PEFT and transformers load it."""
    out = tmp_path_factory.mktemp("adapter")
    write_adapter(exported.folder.adapter, exported.manifest.layout, exported.theta, out)
    return PeftModel.from_pretrained(load_base_of(out), out).eval()


def batch(dataset: Dataset, rows: Any) -> dict[str, torch.Tensor]:
    """Rows padded together, with labels as Hugging Face's collators write them."""
    pad = torch.nn.utils.rnn.pad_sequence
    spans = [slice(*dataset.offsets[row : row + 2]) for row in rows]
    arrays = dataset.token_ids, dataset.labels
    ids, labels = ([torch.from_numpy(array[span].astype(np.int64)) for span in spans] for array in arrays)
    mask = pad([torch.ones_like(each) for each in ids], batch_first=True)
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def scalars(engine: Engine, theta: np.ndarray, directions: Any, epsilon: float = 1e-3, count: int = 6, **more: Any):
    task = DirectionTask("peft", np.arange(count, dtype=np.uint64), epsilon, 10, **more)
    return np.concatenate([values for _, values in engine.derivatives(theta, directions, task, ROWS)])


def test_one_block_and_an_output_behind_it(exported: Exported) -> None:
    manifest = exported.manifest
    assert [stage.block for stage in manifest.stages] == [None, "peft", None]
    assert [stage.width for stage in manifest.stages[:2]] == [NUMBERS, RANK]
    assert (manifest.layout.size, manifest.features, manifest.head_width) == (SIZE, HIDDEN, None)
    assert manifest.at_targets
    assert manifest.linearised


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 0}, "states at targets need features"),
        ({"at_targets": False}, "slopes are those of states at targets"),
        ({"at_targets": False, "linearised": False}, "the stages do not follow the blocks"),
    ],
)
def test_a_manifest_says_all_of_it_or_nothing(exported: Exported, changes: dict[str, Any], message: str) -> None:
    assert Manifest.from_bytes(exported.manifest.to_bytes()) == exported.manifest
    with pytest.raises(BadInputError, match=message):
        replace(exported.manifest, **changes)


def test_the_loss_is_transformers(exported: Exported, by_differences: Exported, adapter: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = adapter(**batch(exported.dataset, ROWS)).loss
    for index, case in enumerate((exported, by_differences)):
        with case.engine(tmp_path / str(index)) as engine:
            found = engine.evaluate(exported.theta, ROWS)
        assert found.loss == pytest.approx(float(expected), abs=2e-3)  # numbers are kept in float16
        assert found.total == len(ROWS)


def test_scalars_are_derivatives_of_the_loss(exported: Exported, adapter: Any, tmp_path: Path) -> None:
    task = DirectionTask("peft", np.arange(2, dtype=np.uint64), 1e-3, 10)
    rows = task.batch(1, ROWS)
    names = [spec.name for spec in exported.manifest.layout.tensors]
    weights = {name: value for name, value in adapter.named_parameters() if "modules_to_save" in name}
    trained = [weights[name.replace("side.", "side.modules_to_save.default.")].requires_grad_(True) for name in names]
    gradients = torch.autograd.grad(adapter(**batch(exported.dataset, rows)).loss, trained)
    gradient = np.concatenate([each.numpy().reshape(-1) for each in gradients]).astype(np.float64)
    directions = Directions(1)
    expected = [directions.vector(seed, 0, SIZE) @ gradient for seed in range(6)]
    with exported.engine(tmp_path) as engine:
        found = scalars(engine, exported.theta, directions)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("central", [False, True])
def test_slopes_give_what_differences_of_the_loss_tend_to(
    exported: Exported, by_differences: Exported, central: bool, tmp_path: Path
) -> None:
    """The difference of both is of the order of ε, ε² for central ones, down to float32's rounding."""
    theta, directions = exported.theta, Directions(1)
    with exported.engine(tmp_path / "a") as slopes, by_differences.engine(tmp_path / "b") as losses:
        apart = [
            np.abs(
                scalars(slopes, theta, directions, epsilon, central=central)
                - scalars(losses, theta, directions, epsilon, central=central)
            ).max()
            for epsilon in (0.04, 0.01)
        ]
        size = np.abs(scalars(slopes, theta, directions)).max()
    assert apart[1] < apart[0] / (8 if central else 2.5)
    assert apart[1] < 0.1 * size


def test_a_frame_is_the_gradient(exported: Exported, by_differences: Exported, tmp_path: Path) -> None:
    directions = OrthogonalDirections(5, 0, SIZE)
    seeds = np.arange(directions.order, dtype=np.uint64)

    def estimate(case: Exported, folder: Path, **more: Any) -> np.ndarray:
        with case.engine(folder) as engine:
            values = scalars(engine, exported.theta, directions, 1e-2, directions.order, **more)
        return sum(value * directions.vector(int(seed), 0, SIZE) for seed, value in zip(seeds, values, strict=True))

    found = estimate(exported, tmp_path / "a")
    expected = estimate(by_differences, tmp_path / "b", central=True)
    assert found @ expected > 0.999 * np.linalg.norm(found) * np.linalg.norm(expected)


class Counting(Cpu):
    """Knows which graphs were opened."""

    def __init__(self) -> None:
        self.opened: set[str] = set()

    def open(self, folder: Path, stage: Stage, threads: int) -> Session:
        self.opened.add(stage.graph.name)
        return super().open(folder, stage, threads)


def test_only_what_predicts_is_kept_and_the_model_is_not_loaded_again(exported: Exported, tmp_path: Path) -> None:
    theta, second = exported.theta, Counting()
    with exported.engine(tmp_path) as engine:
        expected = scalars(engine, theta, Directions(1)), engine.evaluate(theta, ROWS).loss
    with exported.engine(tmp_path, provider=second) as engine:
        found = scalars(engine, theta, Directions(1)), engine.evaluate(theta, ROWS).loss
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert second.opened == {"peft.onnx", "output.onnx"}
    (kept,) = tmp_path.iterdir()
    entry, token = 8, 2 * NUMBERS + 4 * HIDDEN
    predicted = int(exported.dataset.predicted.sum())
    most = entry * len(ROWS) + token * predicted + 2 * NUMBERS * len(ROWS)  # features fill up whole lines
    assert entry * len(ROWS) + token * predicted <= kept.stat().st_size <= most


@pytest.mark.parametrize("limit", [0, 1500])
def test_the_room_of_the_cache_changes_no_bit(exported: Exported, limit: int, tmp_path: Path) -> None:
    found = []
    for room in (ROOM, limit):
        with exported.engine(tmp_path / str(room), room) as engine:
            found.append(scalars(engine, exported.theta, Directions(1)))
    np.testing.assert_array_equal(*found)


def test_few_copies_at_once_give_the_same(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with exported.engine(tmp_path) as engine:
        together = scalars(engine, exported.theta, Directions(1))
        monkeypatch.setattr("fwdllm_client.engine.linearised.FLOATS_PER_RUN", 1)
        monkeypatch.setattr("fwdllm_client.engine.runs.FLOATS_PER_RUN", 1)
        alone = scalars(engine, exported.theta, Directions(1))
    np.testing.assert_allclose(alone, together, atol=2e-3 * np.abs(together).max())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_model_is_quantised_and_the_network_is_not(exported: Exported, precision: str, tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    shutil.copytree(exported.folder.bundle, folder.bundle, copy_function=shutil.copyfile)
    manifest = quantise_bundle(folder.bundle, exported.manifest, precision)
    small = replace(exported, folder=folder, manifest=manifest)
    changed = [
        stage.graph.name for stage, its in zip(manifest.stages, exported.manifest.stages, strict=True) if stage != its
    ]
    assert changed == ["prefix.onnx", "output.onnx"]
    audit(folder.bundle, manifest)
    with exported.engine(tmp_path / "a") as plain, small.engine(tmp_path / "b") as quantised:
        expected, found = (scalars(each, exported.theta, Directions(1)) for each in (plain, quantised))
    assert found @ expected > (0.99 if precision == "int8" else 0.8) * np.linalg.norm(found) * np.linalg.norm(expected)


def _double_softmax(graph: onnx.GraphProto) -> None:
    (node,) = (each for each in graph.node if each.op_type == "Sub")
    softmax = next(each for each in graph.node if each.output[0] == node.input[0])
    graph.node.append(onnx.helper.make_node("Mul", [softmax.output[0]] * 2, ["squared"]))
    node.input[0] = "squared"


def _other_token(graph: onnx.GraphProto) -> None:
    (equal,) = (each for each in graph.node if each.op_type == "Equal")
    graph.node.append(onnx.helper.make_node("Abs", [equal.input[0]], ["other"]))
    equal.input[0] = "other"


def _labels_themselves(graph: onnx.GraphProto) -> None:
    last = next(each for each in graph.node if each.output[0] == "slopes")
    graph.node.append(onnx.helper.make_node("Cast", ["labels"], ["told"], to=onnx.TensorProto.FLOAT))
    graph.node.append(onnx.helper.make_node("ReduceSum", ["told"], ["sum_of_labels"], keepdims=0))
    graph.node.append(onnx.helper.make_node("Add", ["before", "sum_of_labels"], ["slopes"]))
    last.output[0] = "before"


@pytest.mark.parametrize("tamper", [_double_softmax, _other_token, _labels_themselves])
def test_devices_refuse_other_slopes(
    exported: Exported, tamper: Callable[[onnx.GraphProto], None], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported.folder.bundle, bundle)
    audit(bundle, exported.manifest)
    model = onnx.load(bundle / "output.onnx", load_external_data=False)
    tamper(model.graph)
    (bundle / "output.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NotAllowedError, match=r"slopes that are not those of the loss|a loss that is not"):
        audit(bundle, exported.manifest)


def test_simulated_devices_count_the_passes_that_engines_count(exported: Exported, tmp_path: Path) -> None:
    theta, counter = exported.theta, PassCounter(exported.manifest, exported.dataset, 1)
    with exported.engine(tmp_path) as engine:
        task = DirectionTask("peft", np.arange(5, dtype=np.uint64), 1e-3, 6)
        for _ in engine.derivatives(theta, Directions(1), task, ROWS):
            pass
        once, each = counter.task(task, theta, ROWS)
        assert engine.example_passes == pytest.approx(once + 5 * each)
        before = engine.example_passes
        engine.evaluate(theta, ROWS)
        assert engine.example_passes - before == pytest.approx(counter.evaluation(theta, ROWS))
    assert direction_shares(exported.manifest)["peft"] == pytest.approx(
        exported.manifest.stages[1].multiplications / sum(stage.multiplications for stage in exported.manifest.stages)
    )


def test_a_saved_adapter_generates_token_by_token(exported: Exported, adapter: Any) -> None:
    ids = torch.from_numpy(exported.dataset.token_ids[: int(exported.dataset.lengths[0])].astype(np.int64))[None]
    mask = torch.ones_like(ids)
    with torch.no_grad():
        written = adapter.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
        expected = ids
        while expected.shape[1] < written.shape[1]:
            logits = adapter(input_ids=expected, attention_mask=torch.ones_like(expected)).logits
            expected = torch.cat((expected, logits[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(written, expected)


def test_there_must_be_completions(source: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="needs held-out completions"):
        export(tmp_path, source, rows=False)
