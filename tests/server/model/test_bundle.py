"""What a device computes from the bundle is what PyTorch computes from the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from client.engine.providers import FixedCpu
from server.model.conftest import LABELS, MAX_TOKENS, Prepared, batch, by_block, load_theta, prepare, run_stages
from server.model.local_rows import computed
from tokenizers import Tokenizer

from fwdllm_client.engine.audit import audit
from fwdllm_client.engine.fixed_shapes import FixedShapes
from fwdllm_client.engine.sessions import Cpu
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sha256_of
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.precision import Precision
from fwdllm_server.model.architecture import head_name
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import TokenizerFile, load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.quantise import quantise_bundle
from fwdllm_server.model.trainable import initial_theta, saved_parameters


def torch_losses(prepared: Prepared, feeds: dict[str, np.ndarray], theta: Float32Vector) -> torch.Tensor:
    """Per-example losses of PEFT's own model, copy by copy."""
    losses = []
    rows = len(feeds["labels"]) // len(theta)
    for copy, vector in enumerate(theta):
        load_theta(prepared.model, prepared.layout, vector)
        part = {name: torch.from_numpy(value[copy * rows : (copy + 1) * rows]) for name, value in feeds.items()}
        labels = part.pop("labels")
        losses.append(torch.nn.functional.cross_entropy(prepared.model(**part).logits, labels, reduction="none"))
    return torch.cat(losses)


@pytest.fixture(autouse=True)
def _restore(request: pytest.FixtureRequest):
    """Shared models keep their initial weights."""
    shared = [request.getfixturevalue(name) for name in ("prepared", "prepared_bert") if name in request.fixturenames]
    before = [initial_theta(one.model, one.layout) for one in shared]
    yield
    for one, theta in zip(shared, before, strict=True):
        load_theta(one.model, one.layout, theta)


@pytest.mark.parametrize(
    ("copies", "rows", "tokens"), [(1, 1, 2), (1, 4, 9), (3, 2, 5), (3, 1, MAX_TOKENS), (5, 3, 12)]
)
def test_stages_equal_pytorch_for_different_copies(prepared: Prepared, copies: int, rows: int, tokens: int) -> None:
    feeds = batch(copies * rows, tokens, seed=tokens)
    theta = prepared.theta(copies)
    with torch.no_grad():
        expected = torch_losses(prepared, feeds, theta).numpy()
    loss, logits = run_stages(prepared, feeds, by_block(prepared.layout, theta))
    assert loss.dtype == logits.dtype == np.float32
    assert logits.shape == (copies * rows, len(LABELS))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


def test_a_device_runs_what_is_exported(prepared: Prepared) -> None:
    audit(prepared.folder, prepared.manifest)


def test_every_method_starts_as_the_base(prepared: Prepared) -> None:
    """With any head: what the method adds does nothing at first."""
    theta = initial_theta(prepared.model, prepared.layout)
    theta[prepared.layout.block("head").slice] = prepared.theta(1)[0, prepared.layout.block("head").slice]
    load_theta(prepared.model, prepared.layout, theta)
    base = load_base(prepared.source, LABELS, prepared.pooling)
    for name in {name.split(".")[0] for name in base.newly_made} | {head_name(base)}:
        its = prepared.model.get_base_model().get_submodule(name)
        if hasattr(its, "modules_to_save"):
            base.get_submodule(name).load_state_dict(its.modules_to_save["default"].state_dict())
    feeds = batch(4, 9)
    text = {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = base(**text).logits.numpy()
    _, logits = run_stages(prepared, feeds, by_block(prepared.layout, theta[None]))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


def test_copies_matter(prepared: Prepared) -> None:
    """The same text under two copies of a block has two losses: no input is ignored."""
    row = batch(1, 9)
    feeds = {name: np.concatenate([value, value]) for name, value in row.items()}
    for block in prepared.layout.blocks:
        theta = by_block(prepared.layout, np.repeat(prepared.theta(1), 2, axis=0))
        theta[block] = by_block(prepared.layout, prepared.theta(2, seed=1))[block]
        loss, _ = run_stages(prepared, feeds, theta)
        assert abs(loss[0] - loss[1]) > 1e-4, block


def test_a_decoder_reads_rows_of_unequal_length_together(prepared_models: Callable[[str], Prepared]) -> None:
    """Each as PyTorch reads it alone, though all rows share the angles of the rotary embedding."""
    prepared = prepared_models("llama")
    lengths = np.array([2, 11, 5, 8, 3, 12])
    feeds = batch(len(lengths), int(lengths.max()))
    feeds["attention_mask"] = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    feeds["input_ids"] = np.random.default_rng(1).integers(2, 50, feeds["input_ids"].shape) * feeds["attention_mask"]
    start, theta = initial_theta(prepared.model, prepared.layout), prepared.theta(1)
    _, logits = run_stages(prepared, feeds, by_block(prepared.layout, theta))
    load_theta(prepared.model, prepared.layout, theta[0])
    with torch.no_grad():
        rows = [torch.from_numpy(ids[None, :length]) for ids, length in zip(feeds["input_ids"], lengths, strict=True)]
        alone = torch.cat([prepared.model(input_ids=row).logits for row in rows]).numpy()
    load_theta(prepared.model, prepared.layout, start)
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 0.01


def test_an_unperturbed_block_needs_one_copy_only(prepared_bert: Prepared) -> None:
    feeds = batch(6, 9)
    theta = by_block(prepared_bert.layout, np.repeat(prepared_bert.theta(1), 3, axis=0))
    expected, _ = run_stages(prepared_bert, feeds, theta)
    loss, _ = run_stages(prepared_bert, feeds, theta | {"head": theta["head"][:1]})
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_scalar_is_the_directional_derivative(prepared: Prepared) -> None:
    """(L(θ+εv) − L(θ))/ε from the bundle against vᵀ∇L from autograd."""
    feeds = batch(8, 11)
    theta = prepared.theta(1)[0]
    direction = np.where(np.random.default_rng(5).random(prepared.layout.size) < 0.5, -1, 1).astype(np.float32)
    torch_losses(prepared, feeds, theta[None]).mean().backward()
    parameters = {p.data_ptr(): p for p in prepared.model.parameters() if p.requires_grad}
    assert sum(p.numel() for p in parameters.values()) == prepared.layout.size
    derivative = _slope(prepared, direction)
    for parameter in parameters.values():
        parameter.grad = None

    def mean_loss(epsilon: float) -> float:
        moved = (theta + np.float32(epsilon) * direction)[None]
        return float(run_stages(prepared, feeds, by_block(prepared.layout, moved))[0].astype(np.float64).mean())

    base = mean_loss(0.0)
    errors = {epsilon: abs((mean_loss(epsilon) - base) / epsilon - derivative) for epsilon in (1e-2, 1e-3)}
    # One-sided, the bias is linear in ε; the rounding of a float32 loss divided by ε is what remains.
    assert errors[1e-3] < 0.2 * errors[1e-2] + 4e-7 * abs(base) / 1e-3
    assert errors[1e-3] < 0.05 * abs(derivative) + 5e-3


def _slope(prepared: Prepared, direction: Float32Vector) -> float:
    parameters = saved_parameters(prepared.model)
    pieces = prepared.layout.unpack(direction)
    return float(sum((parameters[name].grad * torch.from_numpy(v)).sum().double() for name, v in pieces.items()))


def test_manifest_describes_the_files(prepared: Prepared) -> None:
    manifest = Manifest.from_bytes((prepared.folder / "manifest.json").read_bytes())
    assert manifest == prepared.manifest
    assert manifest.layout == prepared.layout
    assert {path.name for path in prepared.folder.iterdir()} == {f.name for f in manifest.files} | {"manifest.json"}
    for file in manifest.files:
        assert (sha256_of(prepared.folder / file.name), (prepared.folder / file.name).stat().st_size) == (
            file.sha256,
            file.bytes,
        )
    assert manifest.stages[-1].inputs == ("activation", "theta", "labels")
    assert not manifest.stages[-2].per_token, "head features should be one vector per example"
    tokenizer = Tokenizer.from_file(str(prepared.folder / manifest.tokenizer.name))
    assert len(tokenizer.encode("w2 w3 w4 w5 w6").ids) == 5, "truncation or padding left on"


def test_stages_hold_only_what_they_use(prepared: Prepared) -> None:
    sizes = []
    for stage in prepared.manifest.stages:
        graph = onnx.load(prepared.folder / stage.graph.name).graph
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        assert {value.name for value in graph.initializer} <= used
        assert not any(node.metadata_props or node.doc_string for node in graph.node)
        sizes.append(stage.graph.bytes + (stage.weights.bytes if stage.weights else 0))
    assert sizes[-1] < 10_000


def test_graphs_are_for_accelerators_too(prepared: Prepared) -> None:
    """Single operators of an opset that they know, and free dimensions under the names by which they are fixed."""
    for stage in prepared.manifest.stages:
        model = onnx.load(prepared.folder / stage.graph.name, load_external_data=False)
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
        assert not {"Attention", "RotaryEmbedding", "IsNaN"} & {node.op_type for node in model.graph.node}
        free = {d.dim_param for value in model.graph.input for d in value.type.tensor_type.shape.dim if d.dim_param}
        assert free <= {"rows", "tokens", f"copies_{stage.block}"}


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_fixed_shapes_give_the_same_numbers(prepared: Prepared, precision: Precision, tmp_path: Path) -> None:
    """Whatever the model does with padding, positions and copies of θ."""
    if precision == "int4":
        folder = tmp_path / "int4"
        shutil.copytree(prepared.folder, folder, copy_function=shutil.copyfile)
        prepared = replace(prepared, folder=folder, manifest=quantise_bundle(folder, prepared.manifest, precision))
    expected = computed(prepared, Cpu(), tmp_path / "free")
    found = computed(prepared, FixedShapes(FixedCpu(), prepared.manifest), tmp_path / "fixed")
    for values, its in zip(found, expected, strict=True):
        # Kept activations are float16, which now and then rounds the other way; a scalar divides that by ε.
        np.testing.assert_allclose(values, its, rtol=1e-3, atol=2e-3 * np.abs(its).max())
        assert np.abs(its).max() > 1e-3
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)


def test_export_leaves_the_model_as_it_was(prepared: Prepared) -> None:
    assert prepared.model.config._attn_implementation == "sdpa"


def test_export_is_reproducible(prepared_bert: Prepared, tmp_path: Path) -> None:
    again = prepare(prepared_bert.source, "model", PeftSpec(rank=2, layers=[-2, -1]), tmp_path)
    assert again.manifest.to_bytes() == prepared_bert.manifest.to_bytes()


def test_head_only(bert_source: str, tmp_path: Path) -> None:
    prepared = prepare(bert_source, "model", PeftSpec(layers=[]), tmp_path)
    assert [stage.block for stage in prepared.manifest.stages] == [None, "head"]
    assert list(prepared.layout.blocks) == ["head"]
    feeds, theta = batch(6, 9), prepared.theta(3)
    with torch.no_grad():
        expected = torch_losses(prepared, feeds, theta).numpy()
    np.testing.assert_allclose(run_stages(prepared, feeds, {"head": theta})[0], expected, rtol=1e-4)


@pytest.mark.parametrize("layers", [[-1], []])
def test_one_block(bert_source: str, layers: list[int], tmp_path: Path) -> None:
    """The head perturbed together with the adapter: one stage behind the prefix."""
    tokenizer = load_tokenizer_file(bert_source)
    model = apply_peft(load_base(bert_source, LABELS, "mean"), PeftSpec(method="adapter", rank=2, layers=layers), 0)
    manifest = export_bundle(model, ModelInputs(tokenizer, MAX_TOKENS, LABELS), tmp_path, one_block=True)
    assert [stage.block for stage in manifest.stages] == [None, "peft"]
    assert [spec.name.split(".")[-2] for spec in manifest.layout.tensors[-2:]] == ["classifier", "classifier"]
    prepared = Prepared(bert_source, "mean", model, manifest.layout, tmp_path, manifest)
    feeds, theta = batch(6, 9), prepared.theta(2)
    with torch.no_grad():
        expected = torch_losses(prepared, feeds, theta).numpy()
    np.testing.assert_allclose(run_stages(prepared, feeds, {"peft": theta})[0], expected, rtol=1e-4)


def test_frozen_a_stays_in_the_graph(bert_source: str, tmp_path: Path) -> None:
    prepared = prepare(bert_source, "mean", PeftSpec(method="lora-fa", layers=[-1]), tmp_path)
    assert not any("lora_A" in spec.name for spec in prepared.layout.tensors)
    feeds, theta = batch(6, 9), prepared.theta(2)
    with torch.no_grad():
        expected = torch_losses(prepared, feeds, theta).numpy()
    np.testing.assert_allclose(run_stages(prepared, feeds, by_block(prepared.layout, theta))[0], expected, rtol=1e-4)


def test_all_linear_targets(bert_source: str, tmp_path: Path) -> None:
    """Targets inside and above the layers (the pooler) are one block, cut at the first of them."""
    prepared = prepare(bert_source, "model", PeftSpec(targets=["dense"]), tmp_path)
    feeds, theta = batch(6, 9), prepared.theta(2)
    with torch.no_grad():
        expected = torch_losses(prepared, feeds, theta).numpy()
    np.testing.assert_allclose(run_stages(prepared, feeds, by_block(prepared.layout, theta))[0], expected, rtol=1e-4)


def test_export_refuses_what_the_device_could_not_run(bert_source: str, tmp_path: Path) -> None:
    model = apply_peft(load_base(bert_source, LABELS, "model"), PeftSpec(), seed=0)
    with pytest.raises(BadInputError, match="cannot read 41 tokens"):
        export_bundle(model, ModelInputs(TokenizerFile(b"{}", 0), 41, LABELS), tmp_path)
    with pytest.raises(BadInputError, match="at least 2"):
        export_bundle(model, ModelInputs(TokenizerFile(b"{}", 0), 1, LABELS), tmp_path)
    with pytest.raises(BadInputError, match="pads with token 0, not 3"):
        export_bundle(model, ModelInputs(TokenizerFile(b"{}", 3), 8, LABELS), tmp_path)
    head = torch.nn.Sequential(torch.nn.LayerNorm(32), torch.nn.Linear(32, 3))
    model.base_model.model.classifier.modules_to_save["default"] = head
    with pytest.raises(BadInputError, match=r"cannot perturb .*classifier.*\(LayerNorm\)"):
        export_bundle(model, ModelInputs(TokenizerFile(b"{}", 0), 8, LABELS), tmp_path)
