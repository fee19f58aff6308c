"""A prepared stage gives the same bits as the graph it was made from, or is not used."""

import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import write_bundle

from fwdllm_client.engine import Engine, compiled
from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.prepared import PreparedCpu
from fwdllm_client.engine.sessions import Cpu
from fwdllm_common.files import sha256_of
from fwdllm_common.manifest import BundleFile

ROWS = np.arange(40)
LIMIT = 1 << 20


def with_external_weights(bundle):
    """The bundle with the prefix's weights in a file of their own, as large models have them."""
    stages = list(bundle.manifest.stages)
    graph, weights = bundle.folder / "prefix.onnx", bundle.folder / "prefix.onnx.data"
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location=weights.name, size_threshold=100)
    files = [BundleFile(path.name, sha256_of(path), path.stat().st_size) for path in (graph, weights)]
    stages[0] = replace(stages[0], graph=files[0], weights=files[1])
    return replace(bundle, manifest=replace(bundle.manifest, stages=tuple(stages)))


@pytest.fixture
def large(tmp_path):
    return with_external_weights(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prepared"


def prepared_in(folder, limit, worth=0):
    return PreparedCpu(CompiledStages(folder, limit), worth)


def bits(bundle, dataset, theta, tmp_path, provider):
    """What all stages together give, nothing coming from a cache."""
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", 1, 0, provider) as engine:
        result = engine.evaluate(theta, ROWS)
    return np.array([result.loss, result.correct]).tobytes()


@pytest.fixture
def expected(large, dataset, theta, tmp_path):
    return bits(large, dataset, theta, tmp_path, Cpu())


def models(folder):
    return sorted(path for path in folder.iterdir())


def test_it_is_made_once_and_changes_no_bit(large, dataset, theta, tmp_path, folder, expected):
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) == expected
    (made,) = models(folder)
    assert sorted(path.name for path in made.iterdir()) == ["graph.onnx", "graph.onnx.data", "sha256.json"]
    stamp = (made / "graph.onnx").stat().st_mtime_ns
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) == expected
    assert (made / "graph.onnx").stat().st_mtime_ns == stamp


def test_it_is_what_runs(large, dataset, theta, tmp_path, folder, expected):
    """With another model's numbers behind right hashes the result is that other model's."""
    provider = prepared_in(folder, LIMIT)
    bits(large, dataset, theta, tmp_path, provider)
    (made,) = models(folder)
    weights = made / "graph.onnx.data"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    hashes = json.loads((made / "sha256.json").read_text())
    (made / "sha256.json").write_text(json.dumps(hashes | {"graph.onnx.data": sha256_of(weights)}))
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) != expected


@pytest.mark.parametrize("file", ["graph.onnx", "graph.onnx.data", "sha256.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "gone"])
def test_a_torn_or_damaged_file_is_noticed_and_made_anew(
    large, dataset, theta, tmp_path, folder, expected, file, damage
):
    bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT))
    path = models(folder)[0] / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:-20]), "empty": b"", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) == expected
    assert CompiledStages(folder, LIMIT)._is_intact(models(folder)[0])


def test_what_a_crash_left_half_made_is_removed(large, dataset, theta, tmp_path, folder, expected):
    (folder / "0123.part").mkdir(parents=True)
    (folder / "0123.part" / "graph.onnx").write_bytes(b"half")
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) == expected
    assert len(models(folder)) == 1


@pytest.mark.parametrize("what", ["onnxruntime", "processor", "model"])
def test_another_version_processor_or_model_has_its_own(
    large, dataset, theta, tmp_path, folder, expected, what, monkeypatch
):
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT)) == expected
    if what == "onnxruntime":
        monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    elif what == "processor":
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("Features : fp asimd i8mm\nCPU part : 0xd47\n")
        monkeypatch.setattr("fwdllm_client.engine.processor._CPUINFO", cpuinfo)
    else:
        large = with_external_weights(write_bundle(tmp_path / "other", seed=5))
    bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT))
    assert len(models(folder)) == 2


def test_the_model_used_longest_ago_makes_room(large, dataset, theta, tmp_path, folder, expected):
    bits(large, dataset, theta, tmp_path, prepared_in(folder, LIMIT))
    (old,) = models(folder)
    os.utime(old, (1, 1))
    other = with_external_weights(write_bundle(tmp_path / "other", seed=5))
    bits(other, dataset, theta, tmp_path, prepared_in(folder, 2 * other.manifest.stages[0].weights.bytes))
    assert not old.exists()
    assert len(models(folder)) == 1


@pytest.mark.parametrize(("limit", "worth"), [(0, 0), (1000, 0), (LIMIT, LIMIT)], ids=["none", "little", "not-worth"])
def test_without_room_or_worth_nothing_is_prepared(large, dataset, theta, tmp_path, folder, expected, limit, worth):
    assert bits(large, dataset, theta, tmp_path, prepared_in(folder, limit, worth)) == expected
    assert not folder.exists()


def test_a_full_disk_only_costs_memory(large, dataset, theta, tmp_path, folder, expected, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled, "sync", full)
    provider = prepared_in(folder, LIMIT)
    assert bits(large, dataset, theta, tmp_path, provider) == expected
    assert models(folder) == []
    assert bits(large, dataset, theta, tmp_path, provider) == expected
