"""The whole agent with the real engine on real rows, against the scripted coordinator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from client.engine.tiny_bundle import make_theta, write_bundle
from tokenizers import Tokenizer, models, pre_tokenizers

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm_client.agent import LocalData, run_agent
from fwdllm_client.data import Dataset, DataSource
from fwdllm_client.data.split import split
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.home import ClientHome
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import sha256_of
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import BundleFile
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import ModelState, theta_digest

WORDS = [f"word{index}" for index in range(50)]
EPSILON = float(np.float32(0.01))


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    written = write_bundle(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    return replace(
        written,
        manifest=replace(written.manifest, tokenizer=BundleFile(file.name, sha256_of(file), file.stat().st_size)),
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data.csv"
    rows = [f"{' '.join(WORDS[1 + row % 7 : 4 + row % 11])},{'abc'[row % 3]}" for row in range(40)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return DataSource(path)


@pytest.fixture
def home(tmp_path, coordinator):
    home = ClientHome(tmp_path / "home")
    home.save_identity(coordinator.identity())
    return home


@pytest.fixture
def assignment(bundle, coordinator):
    """Handed out at every check-in; its files and weights are served."""
    for file in bundle.manifest.files:
        coordinator.add_file((bundle.folder / file.name).read_bytes())
    theta = make_theta(bundle.manifest)
    header = RunHeader(7, bundle.manifest.layout.digest, theta_digest(theta), OptimizerSettings("sgd"))
    snapshot = ModelState.initial(header, bundle.manifest.layout, theta).to_bytes()
    coordinator.on_weights = lambda request: [
        device_pb2.WeightsChunk(kind=device_pb2.WeightsChunk.KIND_SNAPSHOT, data=snapshot)
    ]
    assignment = device_pb2.Assignment(
        assignment_id="a1",
        job_id="job",
        job_name="tiny",
        header=ledger_pb2.RunHeader.FromString(header.to_bytes()),
        manifest_sha256=coordinator.add_file(bundle.manifest.to_bytes()).digest(),
        theta_digest=theta_digest(theta),
        deadline_ms=60_000,
        evaluate=True,
        directions=[
            device_pb2.DirectionTask(
                block=block,
                seeds=[device_pb2.SeedRange(first=first, count=20), device_pb2.SeedRange(first=2**64 - 9, count=3)],
                epsilon=EPSILON,
                batch_size=8,
            )
            for block, first in (("head", 100), ("peft", 200))
        ],
    )
    coordinator.on_check_in = lambda request: device_pb2.CheckInResponse(
        assignment=assignment, open_assignments=[assignment.assignment_id]
    )
    return assignment


def test_the_agent_reports_what_the_engine_computes(home, source, bundle, assignment, coordinator, new_stop, tmp_path):
    run_agent(home, LocalData(source, 0.25), new_stop(), threads=1, once=True)
    reported = [value for report in coordinator.reports for value in report.derivatives]

    theta = make_theta(bundle.manifest)
    dataset = Dataset.load(source, bundle.folder / "tokenizer.json", bundle.manifest)
    training, validation = split(len(dataset), 0.25)
    expected = []
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1) as engine:
        for block, first in (("head", 100), ("peft", 200)):
            seeds = np.array([*range(first, first + 20), *range(2**64 - 9, 2**64 - 6)], dtype=np.uint64)
            for _, values in engine.derivatives(theta, 7, DirectionTask(block, seeds, EPSILON, 8), training):
                expected += values.tolist()
        evaluation = engine.evaluate(theta, validation)
    np.testing.assert_allclose(reported, expected, rtol=1e-5, atol=1e-6)
    counts = coordinator.reports[0].evaluation
    assert (counts.correct, counts.total) == (evaluation.correct, len(validation))
    efforts = [report.effort for report in coordinator.reports]
    assert sum(effort.example_passes for effort in efforts) > 10
    assert efforts[-1].artifact_bytes > sum(file.bytes for file in bundle.manifest.files)


def test_a_second_life_computes_nothing_again(home, source, assignment, coordinator, new_stop):
    run_agent(home, LocalData(source, 0.25), new_stop(), threads=1, once=True)
    coordinator.reports.clear()
    downloads = len(coordinator.artifact_requests)
    run_agent(home, LocalData(source, 0.25), new_stop(), threads=1, once=True)
    assert coordinator.reports == []
    assert len(coordinator.artifact_requests) == downloads


@pytest.mark.parametrize(("expires_unix_s", "warned"), [(1, True), (4_000_000_000, False)])
def test_an_expired_certificate_is_told(home, source, assignment, coordinator, new_stop, capfd, expires_unix_s, warned):
    home.save_identity(replace(coordinator.identity(), expires_unix_s=expires_unix_s))
    run_agent(home, LocalData(source, 0.0), new_stop(), threads=1, once=True)
    said = capfd.readouterr()
    assert ("certificate has expired; ask for a new token" in said.out + said.err) is warned


def test_a_label_that_the_model_does_not_know_ends_the_agent(home, source, assignment, new_stop):
    source.path.write_text("text,label\nword1,d\n")
    with pytest.raises(BadInputError, match="label 'd' is not one of the model's"):
        run_agent(home, LocalData(source, 0.0), new_stop(), once=True)
