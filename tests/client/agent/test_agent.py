"""The whole agent with the real engine on real rows, against the scripted coordinator."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from client.engine.tiny_bundle import make_theta, write_bundle
from grpc import StatusCode
from helpers.undemanding import ask_for_nothing
from tokenizers import Tokenizer, models, pre_tokenizers

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm_client.agent.agent import LocalData, run_agent
from fwdllm_client.cli.main import run_command
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.data import Dataset
from fwdllm_client.data.split import split
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError, IntegrityError, NotAllowedError
from fwdllm_common.files import sha256_of
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import BundleFile
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.protocol import FEATURE_SUMS, GENERATOR_2, NOISED_SUMS, SECURE_AGGREGATION
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
    rows = [f"{WORDS[1 + row]} {' '.join(WORDS[1 + row % 7 : 4 + row % 11])},{'abc'[row % 3]}" for row in range(40)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return DataSource(path)


@pytest.fixture
def home(tmp_path, coordinator):
    home = ClientHome(tmp_path / "home")
    home.save_identity(coordinator.identity())
    ask_for_nothing(home.folder)
    return home


@pytest.fixture
def assignment(bundle, coordinator):
    """Handed out at every check-in; its files and weights are served."""
    for file in bundle.manifest.files:
        coordinator.add_file((bundle.folder / file.name).read_bytes())
    theta = make_theta(bundle.manifest)
    header = RunHeader(Directions(7), bundle.manifest.layout.digest, theta_digest(theta), OptimizerSettings("sgd"))
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
            for _, values in engine.derivatives(
                theta, Directions(7), DirectionTask(block, seeds, EPSILON, 8), training
            ):
                expected += values.tolist()
        evaluation = engine.evaluate(theta, validation)
    np.testing.assert_allclose(reported, expected, rtol=1e-5, atol=1e-6)
    counts = coordinator.reports[0].evaluation
    assert (counts.correct, counts.total) == (evaluation.correct, len(validation))
    job_devices = [report.usage for report in coordinator.reports]
    assert sum(usage.example_passes for usage in job_devices) > 10
    assert job_devices[-1].artifact_bytes > sum(file.bytes for file in bundle.manifest.files)


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


@pytest.fixture
def sums_assignment(bundle, coordinator):
    """Asks for sums at every check-in."""
    for file in bundle.manifest.files:
        coordinator.add_file((bundle.folder / file.name).read_bytes())
    theta = coordinator.add_file(make_theta(bundle.manifest).tobytes())
    assignment = device_pb2.Assignment(
        assignment_id="j-0-1",
        job_id="j",
        job_name="tiny",
        manifest_sha256=coordinator.add_file(bundle.manifest.to_bytes()).digest(),
        theta_digest=theta.digest(),
        deadline_ms=60_000,
        feature_sums=True,
    )
    coordinator.on_check_in = lambda request: device_pb2.CheckInResponse(
        assignment=assignment, open_assignments=[assignment.assignment_id]
    )
    return assignment


def run_with(policy, home, source, new_stop):
    run_agent(home, LocalData(source, 0.0), new_stop(), policy=policy, threads=1, once=True)


def test_an_owner_who_allows_nothing_sends_nothing(home, source, sums_assignment, coordinator, new_stop, capfd):
    run_with(Policy(), home, source, new_stop)

    assert list(coordinator.check_ins[0].capabilities) == [GENERATOR_2, SECURE_AGGREGATION, NOISED_SUMS]
    assert coordinator.feature_sums == []
    assert coordinator.artifact_requests == []
    said = capfd.readouterr()
    assert "which the owner of this device has not allowed; nothing was computed and nothing was sent" in (
        said.out + said.err
    )


def test_the_sums_of_every_class_with_enough_rows_are_sent(
    home, source, bundle, sums_assignment, coordinator, new_stop, capfd
):
    """Of 40 rows 14 have label a, 13 b and 13 c."""
    run_with(Policy(14), home, source, new_stop)
    (request,) = coordinator.feature_sums

    assert list(coordinator.check_ins[0].capabilities) == [GENERATOR_2, SECURE_AGGREGATION, NOISED_SUMS, FEATURE_SUMS]
    assert (request.assignment_id, request.last) == ("j-0-1", True)
    assert [(item.label, item.rows, len(item.features)) for item in request.sums] == [(0, 14, 6)]
    assert request.usage.example_passes > 0
    assert request.usage.artifact_bytes > sum(file.bytes for file in bundle.manifest.files)
    said = "".join(capfd.readouterr())
    assert "sent, as the owner allows, one vector for each class: the sum of the features of its rows" in said
    assert "rows_added_up={'a': 14}" in said
    assert "too_few_rows_to_be_sent={'b': 13, 'c': 13}" in said


def test_nothing_to_send_is_said_too(home, source, sums_assignment, coordinator, new_stop):
    """The coordinator need not wait for this device."""
    run_with(Policy(15), home, source, new_stop)
    (request,) = coordinator.feature_sums

    assert (len(request.sums), request.last) == (0, True)


def test_a_second_life_sends_the_same_without_computing_it_again(home, source, sums_assignment, coordinator, new_stop):
    for _ in range(2):
        run_with(Policy(8), home, source, new_stop)
    first, again = coordinator.feature_sums

    assert list(again.sums) == list(first.sums)
    assert again.usage.example_passes == 0


def test_a_lost_answer_is_asked_for_again(home, source, sums_assignment, coordinator, new_stop, refuse):
    answers = [refuse(StatusCode.UNAVAILABLE), device_pb2.FeatureSumsResponse(accepted=3)]

    def answer(request):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    coordinator.on_feature_sums = answer
    run_with(Policy(8), home, source, new_stop)
    first, again = coordinator.feature_sums

    assert list(first.sums) == list(again.sums)
    assert len(first.sums) == 3


def test_weights_with_a_wrong_hash_are_not_used(home, source, sums_assignment, coordinator, new_stop):
    wanted = hashlib.sha256(b"other").digest()
    coordinator.files[wanted] = coordinator.files[sums_assignment.theta_digest]
    sums_assignment.theta_digest = wanted
    with pytest.raises(IntegrityError, match="announced a file with SHA-256"):
        run_with(Policy(8), home, source, new_stop)
    assert coordinator.feature_sums == []


def test_a_coordinator_that_asks_for_tokens_gets_nothing(
    home, source, bundle, assignment, coordinator, new_stop, run_status
):
    """Its loss is the label of each row: the agent runs none of it, says so, and its owner can read it."""
    head = bundle.folder / "head.onnx"
    model = onnx.load(head)
    del model.graph.node[-1]
    model.graph.node.append(onnx.helper.make_node("Cast", ["labels"], ["loss"], to=onnx.TensorProto.FLOAT))
    head.write_bytes(model.SerializeToString())
    coordinator.add_file(head.read_bytes())
    *others, last = bundle.manifest.stages
    forged = replace(bundle.manifest, stages=(*others, replace(last, graph=BundleFile.of(head))))
    assignment.manifest_sha256 = coordinator.add_file(forged.to_bytes()).digest()

    with pytest.raises(NotAllowedError, match="a loss that is not the one of classification"):
        run_agent(home, LocalData(source, 0.25), new_stop(last=3), threads=1, once=True)
    assert coordinator.reports == []
    ((told,),) = [request.failures for request in coordinator.check_ins if request.failures]
    assert (told.assignment_id, told.code) == ("a1", "not-allowed")
    assert told.message == "the graph 'head.onnx' returns a loss that is not the one of classification"
    (failed,) = run_status()["failed"]
    assert (failed["job"], failed["code"], failed["times"]) == ("tiny", "not-allowed", 1)


def test_a_batch_of_one_row_is_refused(home, source, assignment, coordinator, new_stop):
    assignment.evaluate = False
    for task in assignment.directions:
        task.batch_size = 1
    with pytest.raises(NotAllowedError, match="asks for scalars over 1 rows, this device gives them over 8 or more"):
        run_agent(home, LocalData(source, 0.25), new_stop(last=3), threads=1, once=True)
    assert coordinator.reports == []


def test_an_owner_may_ask_for_more_rows(home, source, assignment, coordinator, new_stop):
    (home.folder / "client.toml").write_text(home.settings.read_text() + "[privacy]\nmin_batch_rows = 9\n")
    with pytest.raises(NotAllowedError, match="over 8 rows, this device gives them over 9 or more"):
        run_agent(home, LocalData(source, 0.25), new_stop(last=3), threads=1, once=True)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("max_directions = 22", "asks for 23 directions of the block 'head' at one θ, this device measures at most 22"),
        ('labels = ["a", "b"]', "it learns the label 'c', which this device's owner has not allowed"),
    ],
)
def test_what_the_owner_does_not_allow_is_refused_and_the_coordinator_told(
    home, source, assignment, coordinator, new_stop, setting, why
):
    (home.folder / "client.toml").write_text(f"{home.settings.read_text()}[privacy]\n{setting}\n")
    with pytest.raises(NotAllowedError, match=why):
        run_agent(home, LocalData(source, 0.25), new_stop(last=3), threads=1, once=True)
    assert coordinator.reports == []
    ((told,),) = [request.failures for request in coordinator.check_ins if request.failures]
    assert told.code == "not-allowed"
    assert why in told.message


@pytest.fixture
def run_status(home, capsys):
    def run():
        capsys.readouterr()
        assert run_command(["status", "--home", str(home.folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run
