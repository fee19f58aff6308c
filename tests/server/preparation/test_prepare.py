"""What an export leaves behind, by how the head is to begin."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_job import job_spec
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from server.model.conftest import save_model
from transformers import (
    AutoTokenizer,
    FunnelConfig,
    FunnelModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from fwdllm_client.agent.worker import LocalCompute
from fwdllm_client.cache.artifacts import Bundle
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.policy.policy import MinBatchRows
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import BadInputError, FwdllmError, StorageError
from fwdllm_common.known_answers import KnownAnswerTest
from fwdllm_common.manifest import BundleFile, Manifest
from fwdllm_server.model.faults import faults_named
from fwdllm_server.model.load import check_vocabulary, load_base, load_tokenizer_file
from fwdllm_server.preparation.adoption import adopt
from fwdllm_server.preparation.evaluation import HeldOutEvaluator
from fwdllm_server.preparation.export_process import export_in_process
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.known_answers import KNOWN_ANSWERS_FILE, fidelity
from fwdllm_server.preparation.model_export import export_model
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


def test_a_head_from_class_means_makes_a_job_whose_head_is_zero(source: str, tmp_path: Path):
    spec, folder = spec_of("class-means"), JobFolder(tmp_path / "job")
    export_model(spec, source, folder)
    prepared = adopt(spec, folder, ArtifactStore(tmp_path / "artifacts"))

    assert prepared.head_uninitialised
    head = prepared.state.theta[prepared.state.layout.block("head").slice]
    assert len(head) == len(LABELS) * 33
    np.testing.assert_array_equal(head, 0)


def starting_from(rows: DataSource, share: float = 0.5, **more: str):
    """The job whose head starts from a share of these rows."""
    model = {"labels": list(LABELS), "max_tokens": 16, "pooling": "mean", **more}
    held_out = {"file": str(rows.path), "start": share}
    return job_spec({"model": model, "peft": {"rank": 2, "layers": [-1]}, "held_out": held_out})


async def test_a_head_starts_from_held_out_rows(source: str, tmp_path: Path):
    rows = DataSource(write_rows(tmp_path / "rows.csv", 80, seed=3))
    spec, folder = starting_from(rows), JobFolder(tmp_path / "job")
    await export_in_process(spec, source, folder, [], rows)
    prepared = adopt(spec, folder, ArtifactStore(tmp_path / "artifacts"))

    assert (prepared.head_init, prepared.head_uninitialised) == ("held-out", False)
    manifest, theta = Manifest.from_bytes((folder.bundle / "manifest.json").read_bytes()), prepared.state.theta
    found = HeldOutEvaluator(spec, tmp_path, folder.bundle, manifest, tmp_path / "cache").evaluate(0, theta)
    assert found.rows == 40
    assert found.accuracy > 0.6
    assert found.loss < math.log(len(LABELS))
    # What is not the head is as it is without.
    export_model(spec_of("zeros"), source, JobFolder(tmp_path / "other"))
    other = np.load(tmp_path / "other" / "initial_theta.npy")
    head = prepared.state.layout.block("head").slice
    np.testing.assert_array_equal(np.delete(theta, np.r_[head]), np.delete(other, np.r_[head]))


def test_the_start_is_the_same_in_every_precision(source: str, rows: DataSource, tmp_path: Path):
    found = []
    for precision in ("float32", "int8"):
        folder = JobFolder(tmp_path / precision)
        export_model(starting_from(rows, precision=precision), source, folder, (), rows)
        found.append(np.load(folder.initial_theta))
    np.testing.assert_array_equal(*found)


def test_a_start_from_no_row_is_refused(source: str, rows: DataSource, tmp_path: Path):
    with pytest.raises(BadInputError, match=r"\[held_out\] start = 0.01 of 20 rows is none; raise it or add rows"):
        export_model(starting_from(rows, 0.01), source, JobFolder(tmp_path / "job"), (), rows)


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
    return LocalCompute(made, source, 0.2, CacheQuota(cache, 1 << 40), 1, MinBatchRows())


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_device_passes_the_known_answer_test_of_its_bundle(
    bundles: Mapping[str, Path], precision: str, rows: DataSource, tmp_path: Path
):
    found = device_on(bundles[precision], rows, tmp_path).signal_to_noise()
    assert found is not None
    assert found > 100
    left = {path.suffix or path.name for path in (tmp_path / "activations").iterdir()}
    assert left == {".activations", "tunings"}, "the known-answer test's own engine left something"


def test_the_known_answer_test_tells_float32_and_quantised_scalars_apart(bundles: Mapping[str, Path]):
    tests = {
        name: KnownAnswerTest.from_bytes((bundle / KNOWN_ANSWERS_FILE).read_bytes()) for name, bundle in bundles.items()
    }
    assert tests["float32"].expected == tests["float32"].float32
    for test in tests.values():
        np.testing.assert_allclose(test.float32["head"], tests["float32"].float32["head"])
    assert 1 < fidelity(tests["int4"]) < fidelity(tests["int8"]) < 1000


def test_a_device_that_computes_something_else_fails(bundles: Mapping[str, Path], rows: DataSource, tmp_path: Path):
    """As one whose kernels are wrong: here the weights of another precision under the same known answers."""
    wrong = tmp_path / "wrong"
    shutil.copytree(bundles["int4"], wrong)
    manifest = Manifest.from_bytes((bundles["int4"] / "manifest.json").read_bytes())
    test = KnownAnswerTest.from_bytes((bundles["float32"] / KNOWN_ANSWERS_FILE).read_bytes())
    (wrong / KNOWN_ANSWERS_FILE).write_bytes(replace(test, theta=-test.theta).to_bytes())
    (wrong / "manifest.json").write_bytes(
        replace(manifest, known_answers=BundleFile.of(wrong / KNOWN_ANSWERS_FILE)).to_bytes()
    )
    found = device_on(wrong, rows, tmp_path / "cache").signal_to_noise()
    assert found is not None
    assert found < 3


def test_adapter_and_initial_theta_are_those_of_float32(bundles: Mapping[str, Path]):
    names = ("adapter/adapter_model.safetensors", "adapter/base/model.safetensors", "initial_theta.npy")
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


DEFAULT = {"pooling": "layer-means", "labels": list(LABELS), "max_tokens": 16}


def hopeless(source: str, folder: Path) -> str:
    """What is said of a model that cannot be prepared: one line, without advice to try again."""
    spec = job_spec({"model": DEFAULT, "peft": {"layers": []}})
    with pytest.raises(BadInputError) as caught:
        export_model(spec, source, JobFolder(folder / "job"), ["the old song"])
    line = str(caught.value)
    assert "\n" not in line
    assert "resume" not in line
    return line


@pytest.mark.parametrize("name", ["xlnet", "t5", "funnel", "vit"])
def test_a_model_that_cannot_be_prepared_is_named_with_those_that_can(name: str, source: str, tmp_path: Path):
    sizes = {"vocab_size": 40, "d_model": 32, "pad_token_id": 0}
    made = {
        "xlnet": lambda: XLNetModel(XLNetConfig(**sizes, n_layer=2, n_head=4, d_inner=48)),
        "t5": lambda: T5Model(T5Config(**sizes, d_kv=8, d_ff=48, num_layers=2, num_heads=4)),
        "funnel": lambda: FunnelModel(FunnelConfig(**sizes, n_head=4, d_head=8, d_inner=48, block_sizes=[1, 1])),
        "vit": lambda: ViTModel(
            ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
        ),
    }[name]()
    made.save_pretrained(tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(source) / file, tmp_path / "model")
    line = hopeless(str(tmp_path / "model"), tmp_path)
    assert f"is a model of the architecture '{name}', which cannot be prepared (" in line
    assert "choose one of the architectures that can: albert, bert," in line


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(source: str, tmp_path: Path):
    """Added without a resize: the device whose text has such a token would die in its engine."""
    folder = shutil.copytree(source, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, first = len(tokenizer), tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(folder)
    line = hopeless(str(folder), tmp_path)
    assert f"has embeddings for the tokens 0 to {rows - 1}, and none for token {rows + 1}, '<newer>' of its" in line
    assert "model.resize_token_embeddings(len(tokenizer))" in line
    assert first == 2


def test_a_padding_token_without_an_embedding_is_refused(source: str, tmp_path: Path):
    folder = shutil.copytree(source, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 1000}))
    base, tokenizer = load_base(source, LABELS, "mean"), load_tokenizer_file(str(folder))
    with pytest.raises(BadInputError, match="none for token 1000, to pad with; resize"):
        check_vocabulary(base, tokenizer, str(folder))


def test_short_memory_may_pass(source: str, tmp_path: Path):
    """And a full disk is the disk's fault: neither is the model's."""

    def fail(error: Exception):
        @faults_named
        def prepare(spec: object, source: str) -> None:
            raise error

        return prepare

    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")):
        with pytest.raises(FwdllmError, match=r"not enough memory .* free some and resume the job") as caught:
            fail(error)(None, source)
        assert type(caught.value) is FwdllmError
    with pytest.raises(StorageError, match="no space left to write /full"):
        fail(OSError(errno.ENOSPC, "no space", "/full"))(None, source)
    with pytest.raises(BadInputError, match="'absent' is not a known label"):
        fail(BadInputError("'absent' is not a known label"))(None, source)


async def test_an_export_whose_process_is_killed_says_so(source: str, rows: DataSource, tmp_path: Path):
    """As the system does where memory ends."""
    work = asyncio.ensure_future(export_in_process(spec_of("zeros"), source, JobFolder(tmp_path / "job"), [], rows))
    while not (children := multiprocessing.active_children()):
        await asyncio.sleep(0.01)
    os.kill(children[0].pid, signal.SIGKILL)
    with pytest.raises(FwdllmError, match="was killed, most likely because memory ran out; free some and"):
        await work
