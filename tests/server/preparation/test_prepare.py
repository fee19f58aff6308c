"""What an export leaves behind, by how the head is to begin."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_job import job_spec
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from server.model.conftest import save_model

from fwdllm_client.agent.worker import LocalCompute
from fwdllm_client.cache.artifacts import Bundle
from fwdllm_client.cache.cache_room import CacheRoom
from fwdllm_client.data import DataSource
from fwdllm_client.least_rows import LeastRows
from fwdllm_common.canary import Canary
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import BundleFile, Manifest
from fwdllm_server.preparation.canary import CANARY_FILE, fidelity
from fwdllm_server.preparation.prepare import JobFolder, adopt, export_model
from fwdllm_server.store.artifacts import ArtifactStore


def spec_of(head: str, pooling: str = "mean"):
    model = {"labels": list(LABELS), "max_tokens": 16, "pooling": pooling, "head": head}
    return job_spec({"model": model, "peft": {"rank": 2, "layers": [-1]}})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return DataSource(write_rows(tmp_path_factory.mktemp("rows") / "rows.csv", 20, seed=1))


def test_a_head_from_class_means_makes_a_draft_whose_head_is_zero(source: str, tmp_path: Path):
    spec, folder = spec_of("class-means"), JobFolder(tmp_path / "job")
    export_model(spec, source, folder)
    prepared = adopt(spec, folder, ArtifactStore(tmp_path / "artifacts"))

    assert prepared.draft
    head = prepared.state.theta[prepared.state.layout.block("head").slice]
    assert len(head) == len(LABELS) * 33
    np.testing.assert_array_equal(head, 0)


def spec_in(precision: str):
    model = {"labels": list(LABELS), "max_tokens": 16, "pooling": "mean", "precision": precision}
    return job_spec({"model": model, "peft": {"rank": 2, "layers": [-1]}})


@pytest.fixture(scope="module")
def bundles(source: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The tiny model in every precision."""
    folders = {}
    for precision in ("float32", "int8", "int4"):
        folder = JobFolder(tmp_path_factory.mktemp(precision) / "job")
        export_model(spec_in(precision), source, folder)
        folders[precision] = folder.bundle
    return folders


def device_on(bundle: Path, source: DataSource, cache: Path) -> LocalCompute:
    data = (bundle / "manifest.json").read_bytes()
    made = Bundle(hashlib.sha256(data).hexdigest(), bundle, Manifest.from_bytes(data))
    return LocalCompute(made, source, 0.2, CacheRoom(cache, 1 << 40), 1, LeastRows())


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_device_passes_the_self_test_of_its_bundle(
    bundles: Mapping[str, Path], precision: str, rows: DataSource, tmp_path: Path
):
    found = device_on(bundles[precision], rows, tmp_path).signal_to_noise()
    assert found is not None
    assert found > 100
    left = {path.suffix or path.name for path in (tmp_path / "activations").iterdir()}
    assert left == {".activations", "tunings"}, "the self-test's own engine left something"


def test_the_canary_tells_float32_and_quantised_scalars_apart(bundles: Mapping[str, Path]):
    canaries = {name: Canary.from_bytes((bundle / CANARY_FILE).read_bytes()) for name, bundle in bundles.items()}
    assert canaries["float32"].expected == canaries["float32"].float32
    for canary in canaries.values():
        np.testing.assert_allclose(canary.float32["head"], canaries["float32"].float32["head"])
    assert 1 < fidelity(canaries["int4"]) < fidelity(canaries["int8"]) < 1000


def test_a_device_that_computes_something_else_fails(bundles: Mapping[str, Path], rows: DataSource, tmp_path: Path):
    """As one whose kernels are wrong: here the weights of another precision under the same canary."""
    wrong = tmp_path / "wrong"
    shutil.copytree(bundles["int4"], wrong)
    manifest = Manifest.from_bytes((bundles["int4"] / "manifest.json").read_bytes())
    canary = Canary.from_bytes((bundles["float32"] / CANARY_FILE).read_bytes())
    (wrong / CANARY_FILE).write_bytes(replace(canary, theta=-canary.theta).to_bytes())
    (wrong / "manifest.json").write_bytes(replace(manifest, canary=BundleFile.of(wrong / CANARY_FILE)).to_bytes())
    found = device_on(wrong, rows, tmp_path / "cache").signal_to_noise()
    assert found is not None
    assert found < 3


def test_adapter_and_initial_theta_are_those_of_float32(bundles: Mapping[str, Path]):
    names = ("adapter/adapter_model.safetensors", "adapter/base.json", "initial_theta.npy")
    contents = [[(bundle.parent / name).read_bytes() for name in names] for bundle in bundles.values()]
    assert contents[0] == contents[1] == contents[2]


def test_float32_is_the_default_and_leaves_the_graphs_as_they_were(
    bundles: Mapping[str, Path], source: str, tmp_path: Path
):
    folder = JobFolder(tmp_path / "job")
    export_model(spec_of("zeros"), source, folder)
    same, other = (
        {path.name: path.read_bytes() for path in where.iterdir()} for where in (folder.bundle, bundles["float32"])
    )
    assert same == other
    assert sum(map(len, same.values())) > 0


def test_a_head_of_two_layers_is_refused(tmp_path: Path):
    """RoBERTa's own: what its first layer makes of the features is not known before it is trained."""
    source = save_model("roberta", tmp_path / "model")

    with pytest.raises(BadInputError, match="class means need a head of one linear layer with a bias"):
        export_model(spec_of("class-means", "model"), source, JobFolder(tmp_path / "job"))
