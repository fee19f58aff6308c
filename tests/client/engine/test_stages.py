import dataclasses

import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import make_theta, write_bundle

from fwdllm_client.agent.resource_usage import peak_rss_bytes
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.manifest import BundleFile


def test_chain_equals_numpy(bundle, dataset, engine, theta):
    rows = np.arange(len(dataset))
    found = engine.evaluate(theta, rows)
    assert found.total == len(rows)
    assert found.loss == pytest.approx(bundle.loss(dataset, rows, theta), rel=1e-5)
    predicted = np.array([bundle.logits(dataset, row, theta).argmax() for row in rows])
    assert found.correct == (predicted == dataset.labels).sum()


def test_evaluating_no_rows_is_no_error(engine, theta):
    found = engine.evaluate(theta, np.array([], dtype=np.int64))
    assert (found.correct, found.total) == (0, 0)
    assert np.isnan(found.loss)


def test_stages_load_only_when_needed(dataset, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    theta, rows = make_theta(bundle.manifest), np.arange(len(dataset))
    task = DirectionTask("head", np.arange(4, dtype=np.uint64), 1e-3, 8)
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1) as first:
        expected = list(first.derivatives(theta, Directions(1), task, rows))
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1) as second:
        (bundle.folder / "prefix.onnx").unlink()
        (bundle.folder / "peft.onnx").unlink()
        found = list(second.derivatives(theta, Directions(1), task, rows))
    np.testing.assert_array_equal(found[0][1], expected[0][1])


def test_a_cut_off_stage_is_refused(dataset, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache") as engine:
        graph = bundle.folder / "prefix.onnx"
        graph.write_bytes(graph.read_bytes()[:-10])
        with pytest.raises(IntegrityError, match=r"prefix\.onnx.*download the model again"):
            engine.evaluate(make_theta(bundle.manifest), np.arange(2))


def test_a_graph_that_onnx_runtime_rejects_is_named(dataset, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    head = bundle.manifest.stages[2]
    model = onnx.load(bundle.folder / "head.onnx")
    model.graph.node.append(onnx.helper.make_node("Add", ["logits", "nothing"], ["more"]))
    (bundle.folder / "head.onnx").write_bytes(model.SerializeToString())
    broken = dataclasses.replace(head, graph=BundleFile.of(bundle.folder / "head.onnx"))
    manifest = dataclasses.replace(bundle.manifest, stages=(*bundle.manifest.stages[:2], broken))
    with (
        Engine(bundle.folder, manifest, dataset, tmp_path / "cache") as engine,
        pytest.raises(BadInputError, match=r"head\.onnx: ONNX Runtime cannot load it"),
    ):
        engine.evaluate(make_theta(manifest), np.arange(2))


def test_theta_of_another_length_is_refused(engine, theta):
    with pytest.raises(BadInputError, match="theta has shape"):
        engine.evaluate(theta[:-1], np.arange(2))
    with pytest.raises(BadInputError, match="theta has shape"):
        engine.derivatives(
            theta[:-1], Directions(1), DirectionTask("head", np.zeros(1, np.uint64), 1e-3, 2), np.arange(2)
        )


def test_peak_memory_is_at_least_what_python_needs():
    assert 10 << 20 < peak_rss_bytes() < 1 << 40
