"""All that a device does for Qualcomm's NPU, up to the plugin's own library call."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from client.engine.npu import PROVIDER, FakeNpu
from client.engine.providers import FakeClock, FixedCpu, Priced
from client.engine.tiny_bundle import MAX_TOKENS, WIDTH, make_theta, write_bundle

from fwdllm_client.engine import DeviceEngines, DirectionTask, Engine
from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.fixed_shapes import FixedShapes
from fwdllm_client.engine.provider_probe import ProviderProbe
from fwdllm_client.engine.provider_selection import select_provider
from fwdllm_client.engine.providers import placement
from fwdllm_client.engine.qnn import Qnn
from fwdllm_client.engine.sessions import CPU_PROVIDER, Cpu
from fwdllm_common.directions import Directions

ROWS = np.arange(40)
LIMIT = 1 << 24


@pytest.fixture
def npu(monkeypatch):
    npu = FakeNpu()
    npu.install(monkeypatch)
    return npu


@pytest.fixture
def qnn(bundle, npu, tmp_path):
    """A provider as a device makes it at each of its starts."""
    return lambda limit=LIMIT: FixedShapes(Qnn(CompiledStages(tmp_path / "prepared", limit)), bundle.manifest)


def scalars(bundle, dataset, provider, folder, block="peft"):
    task = DirectionTask(block, np.arange(5, dtype=np.uint64), 1e-2, 8)
    with Engine(bundle.folder, bundle.manifest, dataset, folder, 1, 0, provider) as engine:
        parts = engine.derivatives(make_theta(bundle.manifest), Directions(3), task, ROWS)
        return np.concatenate([values for _, values in parts])


def tried(bundle, dataset, provider):
    cpu = Priced("cpu", FakeClock(), 1e-3)
    found = select_provider(bundle.folder, bundle.manifest, ProviderProbe(dataset), [provider], cpu, 1, lambda: 0.0)
    return found.attempts[0], found.best.name


def shapes_of(npu):
    return {("frozen" if "theta" not in shapes else "peft", *next(iter(shapes.values()))) for shapes in npu.compiled}


@pytest.mark.parametrize("block", ["peft", "head"])
def test_the_numbers_are_those_of_the_cpu(bundle, dataset, tmp_path, npu, qnn, block):
    found = scalars(bundle, dataset, qnn(), tmp_path / "fixed", block)
    expected = scalars(bundle, dataset, Cpu(), tmp_path / "cpu", block)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 1e-2
    assert npu.compiled


def test_few_shapes_are_compiled_and_the_losses_are_the_cpus(bundle, dataset, tmp_path, npu, qnn):
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", 1, 0, qnn()) as engine:
        found = engine.evaluate(make_theta(bundle.manifest), ROWS)
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "plain", 1, 0) as engine:
        expected = engine.evaluate(make_theta(bundle.manifest), ROWS)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.correct == expected.correct
    longest = MAX_TOKENS  # between 16 and 32
    assert shapes_of(npu) == {("frozen", 1, 16), ("frozen", 1, longest), ("peft", 16, 16), ("peft", 12, longest)}
    assert {"activation": (12, longest, WIDTH), "attention_mask": (12, longest), "theta": (12, WIDTH**2)} in [
        dict(sorted(shapes.items())) for shapes in npu.compiled
    ]
    assert len(npu.compiled) == 4, "nothing is compiled twice"
    assert npu.settings["enable_htp_fp16_precision"] == "1"


def test_of_a_frozen_stage_one_shape_is_in_memory(bundle, dataset, npu, qnn):
    stage = bundle.manifest.stages[0]
    session = qnn().open(bundle.folder, stage, 1)
    for tokens in (8, 20, 8):
        text = np.ones((1, tokens), dtype=np.int64)
        feeds = {name: _value(text) for name in stage.inputs}
        (output,) = session.run_with_ort_values(["next_activation"], feeds)
        assert output.numpy().shape == (1, tokens, WIDTH)
        assert len(session._sessions) == 1
    assert len(npu.compiled) == 2


def _value(array):
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def test_padding_is_the_models_own(bundle):
    """Decoders look for the last token that is no padding."""
    seen = []
    manifest = replace(bundle.manifest, pad_token_id=7)

    class Recording:
        name = "recording"

        def compile(self, folder, stage, threads, sizes):
            def run(outputs, feeds, options):
                seen.append(feeds)
                return [np.zeros((*feeds["input_ids"].shape, WIDTH), dtype=np.float32)]

            shape = SimpleNamespace(name="input_ids", shape=[1, 16])
            return SimpleNamespace(run=run, get_inputs=lambda: [shape])

    session = FixedShapes(Recording(), manifest).open(bundle.folder, manifest.stages[0], 1)
    text = np.full((1, 3), 4, dtype=np.int64)
    session.run_with_ort_values(["next_activation"], {"input_ids": _value(text), "attention_mask": _value(text // 4)})
    assert seen[0]["input_ids"].tolist() == [[4, 4, 4, *[7] * 13]]
    assert seen[0]["attention_mask"].sum() == 3


def test_a_graph_that_cannot_be_fixed_is_refused(tmp_path):
    other = write_bundle(tmp_path / "other")
    path = other.folder / "peft.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString())

    session = FixedShapes(FixedCpu(), other.manifest).open(other.folder, other.manifest.stages[1], 1)
    feeds = {
        "attention_mask": _value(np.ones((2, 4), dtype=np.int64)),
        "activation": _value(np.ones((2, 4, WIDTH), dtype=np.float32)),
        "theta": _value(np.ones((1, WIDTH**2), dtype=np.float32)),
    }
    with pytest.raises(Exception, match=r"peft\.onnx: the input \w+ has no fixed shape"):
        session.run_with_ort_values(["next_activation"], feeds)


def test_the_ladder_takes_it_with_its_nodes(bundle, dataset, npu, qnn):
    attempt, best = tried(bundle, dataset, qnn())
    assert (attempt.refused, best) == (None, "qnn")
    assert attempt.nodes == {PROVIDER: 3}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda values: values * np.float32(1.2), "losses differ"),
        (lambda values: values * np.float32("nan"), "losses differ"),
        (lambda values: values[:0], "zero-size|Invalid|shape|dimension|match"),
    ],
    ids=["scaled", "nan", "cut"],
)
def test_wrong_numbers_leave_the_cpu(bundle, dataset, npu, qnn, fault, reason):
    npu.fault = fault
    attempt, best = tried(bundle, dataset, qnn())
    assert best == "cpu"
    assert attempt.seconds_per_token is None


def test_half_precision_passes_because_the_losses_are_the_cpus(bundle, dataset, npu, qnn):
    npu.fault = lambda values: np.clip(values, -60000, 60000).astype(np.float16).astype(np.float32)
    assert tried(bundle, dataset, qnn())[1] == "qnn"


def test_one_that_takes_nothing_or_fails_leaves_the_cpu(bundle, dataset, npu, qnn, tmp_path):
    npu.takes = False
    attempt, best = tried(bundle, dataset, qnn())
    assert (attempt.refused, best) == ("it took none of the 3 nodes", "cpu")
    assert attempt.nodes == {CPU_PROVIDER: 3}
    assert list((tmp_path / "prepared").iterdir()) == []

    def fail(values):
        raise RuntimeError("QNN_COMMON_ERROR_SYSTEM: the subsystem restarted")

    npu.takes, npu.fault = True, fail
    attempt, best = tried(bundle, dataset, qnn())
    assert (best, attempt.refused) == ("cpu", "QNN_COMMON_ERROR_SYSTEM: the subsystem restarted")


def test_the_stage_with_the_losses_is_the_cpus(bundle, npu, qnn):
    """So a model of which only that one is perturbed counts as taken by nobody else."""
    assert placement(qnn().open(bundle.folder, bundle.manifest.stages[-1], 1)).keys() == {CPU_PROVIDER}
    assert not npu.compiled


def test_what_is_compiled_is_kept_and_loaded(bundle, dataset, tmp_path, npu, qnn):
    first = scalars(bundle, dataset, qnn(), tmp_path / "first")
    shapes = len(npu.compiled)
    folders = sorted((tmp_path / "prepared").iterdir())
    assert len(folders) == shapes
    assert all({"graph.onnx", "sha256.json"} <= {path.name for path in folder.iterdir()} for folder in folders)
    npu.loaded.clear()
    again = scalars(bundle, dataset, qnn(), tmp_path / "again")
    assert len(npu.compiled) == shapes
    assert {Path(graph).parent for graph in npu.loaded} == set(folders)
    np.testing.assert_allclose(again, first, rtol=1e-5)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:-1] + b"!"])
def test_a_torn_one_is_compiled_again(bundle, dataset, tmp_path, npu, qnn, damage):
    expected = scalars(bundle, dataset, qnn(), tmp_path / "first")
    for folder in (tmp_path / "prepared").iterdir():
        (folder / "graph.onnx").write_bytes(damage((folder / "graph.onnx").read_bytes()))
    shapes = len(npu.compiled)
    np.testing.assert_allclose(scalars(bundle, dataset, qnn(), tmp_path / "again"), expected, rtol=1e-5)
    assert len(npu.compiled) == 2 * shapes


@pytest.mark.parametrize("what", ["onnxruntime", "plugin", "processor", "driver"])
def test_one_of_another_version_is_not_used(bundle, dataset, tmp_path, npu, qnn, what, monkeypatch):
    expected = scalars(bundle, dataset, qnn(), tmp_path / "first")
    shapes = len(npu.compiled)
    if what == "onnxruntime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    elif what == "plugin":
        monkeypatch.setattr("fwdllm_client.engine.qnn.version", lambda name: "9.9")
    elif what == "processor":
        monkeypatch.setattr("fwdllm_client.engine.processor.processor", lambda: "another")
    else:
        npu.breaks = True
    np.testing.assert_allclose(scalars(bundle, dataset, qnn(), tmp_path / "again"), expected, rtol=1e-5)
    assert len(npu.compiled) == 2 * shapes
    left = 0 if what == "driver" else 2 * shapes
    assert len(list((tmp_path / "prepared").iterdir())) == left


@pytest.mark.parametrize("limit", [0, 20_000])
def test_the_room_is_bounded(bundle, dataset, tmp_path, npu, qnn, limit):
    expected = scalars(bundle, dataset, Cpu(), tmp_path / "cpu")
    np.testing.assert_allclose(scalars(bundle, dataset, qnn(limit), tmp_path / "a"), expected, rtol=1e-4, atol=1e-5)
    kept = [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= limit
    assert bool(kept) == bool(limit)


def test_a_device_runs_on_it(bundle, dataset, tmp_path, npu, monkeypatch):
    """From tuning on, and at the next start without compiling."""
    compiled = []
    for _ in range(2):
        engines = DeviceEngines(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1)
        # The CPU behind the fake is no faster than the CPU: what counts here is that it runs as chosen.
        monkeypatch.setattr(engines.tuner._probe, "seconds_per_token", _seconds)
        found = engines.tuner.tuning()
        assert found.provider == "qnn", found.attempts
        with engines.open(found) as engine:
            assert engine.evaluate(make_theta(bundle.manifest), range(10)).total == 10
        compiled.append(len(npu.compiled))
    assert compiled[0] == compiled[1] > 0
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == compiled[0]


def _seconds(chain, tokens, clock):
    session = chain.session(chain.manifest.frozen)
    return 1.0 if type(session).__name__ == "InferenceSession" else 0.5
