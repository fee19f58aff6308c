"""OperatorService: jobs, devices and join tokens."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from helpers.serving import JOB, Serving, everything, refusal, serving, work_until_done
from helpers.tiny_job import add_unprepared_job, job_toml
from integration.conftest import SECTIONS
from safetensors.numpy import load_file
from sqlalchemy import update

from fwdllm.v1.operator_pb2 import (
    JOB_STATE_DONE,
    JOB_STATE_FAILED,
    JOB_STATE_PAUSED,
    JOB_STATE_PREPARING,
    JOB_STATE_RUNNING,
    JOB_STATE_STOPPED,
    AdapterChunk,
    CreateJoinTokenRequest,
    ExportAdapterRequest,
    ExtendJobRequest,
    GetJobRequest,
    ListDevicesRequest,
    ListJobsRequest,
    RevokeDeviceRequest,
    SetJobPriorityRequest,
    SubmitJobRequest,
)
from fwdllm.v1.operator_pb2_grpc import OperatorServiceStub
from fwdllm_common.join_token import JoinToken
from fwdllm_common.replay import theta_digest
from fwdllm_server.config import presets
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.store import jobs, schema

RUN = GetJobRequest(job="tiny")
PRESETS_OWN = ("blocks.head", "blocks.peft", "optimizer", "robust", "rounds")
BAD_FIELD = (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "not-found")


def submit(server: Serving, folder: Path, **changes: object):
    sections = {name: {**SECTIONS.get(name, {}), **keys} for name, keys in {**SECTIONS, **changes}.items()}
    return server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(sections), base_folder=str(folder)))


# submitting


async def test_a_misspelt_key_is_named_with_the_right_one(server, workplace):
    status, reason, words = await refusal(submit(server, workplace, rounds={"min_device": 2}))

    assert (status, reason) == BAD_FIELD
    assert words == 'job file: [rounds] min_device is no known key; did you mean "min_devices"?'


async def test_a_held_out_file_that_is_missing_is_named(server, workplace):
    status, reason, words = await refusal(submit(server, workplace, held_out={"file": "held-out.csv"}))

    assert (status, reason) == BAD_FIELD
    assert words.startswith(f"{workplace / 'held-out.csv'}: cannot read the data")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("text,label\na song,arts\na poem,poetry\n", "label 'poetry' is not in [model] labels; add it there"),
        ("text,label\n", "no rows"),
        ("", "the file is empty"),
        ("words,label\na song,arts\n", "no column 'text'"),
    ],
)
async def test_a_held_out_file_that_does_not_fit_is_refused(server, tmp_path, rows, words):
    (tmp_path / "rows.csv").write_text(rows)
    status, reason, details = await refusal(submit(server, tmp_path, held_out={"file": "rows.csv"}))

    assert (status, reason) == BAD_FIELD
    assert words in details


async def test_a_job_keeps_the_preset_that_it_was_submitted_with(
    folder: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An upgrade may bring another preset; a job that was submitted before keeps its specification."""
    home = ServerHome.open(folder / "server")
    toml = 'preset = "upper-layers"\n' + job_toml({**SECTIONS, "job": {"name": "other"}, **dict.fromkeys(PRESETS_OWN)})
    async with serving(home) as server:
        request = SubmitJobRequest(spec_toml=toml, base_folder=str(workplace))
        await stop(server, (await server.operator.SubmitJob(request)).job_id)
        with server.runtime.database.transaction() as connection:
            # The other job has a model already, which saves an export.
            submitted = jobs.find(connection, "other")
            assert submitted is not None
            spec = {"spec_toml": submitted.spec_toml, "resolved_spec": submitted.resolved_spec}
            connection.execute(update(schema.jobs).where(schema.jobs.c.name == JOB).values(spec))
    released = (resources.files(presets) / "upper-layers.toml").read_text()
    (tmp_path / "upper-layers.toml").write_text(released.replace("count = ", "count = 9"))
    monkeypatch.setattr(presets, "files", lambda _package: tmp_path)

    async with serving(home) as server:
        (job,) = server.coordinator.training.values()
        assert parse_toml(toml, JobSpec, "job file").rounds.count == int(f"9{job.spec.rounds.count}")


async def test_a_relative_base_folder_is_refused(server):
    assert await refusal(submit(server, Path("here"))) == (*BAD_FIELD, "base_folder 'here' is not absolute")


async def test_a_second_job_of_a_name_that_is_taken_is_refused(server, workplace):
    first = (await server.job()).job_id
    status, reason, words = await refusal(submit(server, workplace))

    assert (status, reason) == BAD_FIELD
    assert words == (
        f"job tiny is running already ({first}); give this one another [job] name, "
        f"or stop that one first with 'fwdllm-server job stop {first}'"
    )


async def test_a_name_means_the_newest_job_and_the_others_are_told(server, workplace):
    first = (await server.job()).job_id
    await stop(server, first)
    submitted = await submit(server, workplace)
    newest = await server.job()
    await stop(server, submitted.job_id)

    assert list(submitted.same_name) == list(newest.same_name) == [first]
    assert newest.job_id == submitted.job_id
    assert list((await server.job(first)).same_name) == [submitted.job_id]


async def test_a_model_that_there_is_not_is_told_at_once(server, workplace):
    status, reason, words = await refusal(submit(server, workplace, job={"name": "new"}, model={"source": "./modle"}))

    assert (status, reason) == BAD_FIELD
    assert words.startswith("[model] source: there is no ./modle")


async def test_a_job_that_is_prepared_says_what_is_being_done(server, workplace):
    submitted = await submit(server, workplace, job={"name": "new"}, model={"precision": "int8"})
    said = []
    async for job in server.operator.WatchJob(GetJobRequest(job=submitted.job_id), timeout=120):
        said.append(job.message)
        if job.state != JOB_STATE_PREPARING:
            break
    await stop(server, submitted.job_id)

    assert said[0] == said[-1] == ""
    assert set(said) & {"reading the model", "exporting the model's graph", "quantising the weights"}


async def test_a_second_token_for_a_name_says_that_it_voids_the_first(server):
    first = await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="new"))
    second = await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="new"))
    other = await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="other"))

    assert (first.voids_former, second.voids_former, other.voids_former) == (False, True, False)


async def test_a_refused_job_leaves_nothing_behind(server, workplace):
    await refusal(submit(server, workplace, rounds={"count": 0}))

    assert [job.name for job in (await server.operator.ListJobs(ListJobsRequest())).jobs] == ["tiny"]


async def test_a_job_whose_preparation_fails_says_why_and_the_server_goes_on(server, device, workplace):
    submitted = await submit(server, workplace, job={"name": "hopeless"}, model={"max_tokens": 1000})
    assert (await device.assignment()).job_name == "tiny"
    job = await server.until_state(JOB_STATE_FAILED, submitted.job_id)

    assert job.message == "[bad-input] the model cannot read 1000 tokens; lower max_tokens"
    assert (await server.job()).state == JOB_STATE_RUNNING
    assert (await work_until_done(server, device)).state == JOB_STATE_DONE


async def test_a_stop_does_not_wait_for_the_export(server, device, workplace):
    submitted = await submit(server, workplace, job={"name": "second"})
    await server.until(lambda _: bool(multiprocessing.active_children()))
    stopping = asyncio.ensure_future(stop(server, submitted.job_id))
    await device.check_in()
    job = await stopping

    assert job.state == JOB_STATE_STOPPED
    assert not multiprocessing.active_children()
    assert not (server.home.jobs / job.job_id / "bundle" / "manifest.json").exists()


async def stop(server, job):
    return await server.operator.StopJob(GetJobRequest(job=job))


# looking


async def test_a_job_is_found_by_its_id_and_by_its_name(server):
    by_name = await server.job("tiny")

    assert (await server.job(by_name.job_id)).job_id == by_name.job_id
    assert (by_name.name, by_name.state, by_name.rounds_wanted) == ("tiny", JOB_STATE_RUNNING, 2)
    assert (by_name.initial_evaluation.rows, by_name.head_init) == (30, "zeros")


@pytest.mark.parametrize("name", ["", "nothing"])
async def test_an_unknown_job_is_not_found(server, name):
    words = f"no job {name!r}; 'fwdllm-server job list' shows them"
    request = GetJobRequest(job=name)
    service = server.operator
    for call in (service.GetJob(request), service.StopJob(request), service.ResumeJob(request)):
        assert await refusal(call) == (*NOT_FOUND, words)
    for stream in (service.WatchJob(request), service.ExportAdapter(ExportAdapterRequest(job=request.job))):
        assert await refusal(everything(stream)) == (*NOT_FOUND, words)


async def test_jobs_are_listed_newest_first(server, clock):
    add_unprepared(server, "newer", clock.now + 1)

    assert [job.name for job in (await server.operator.ListJobs(ListJobsRequest())).jobs] == ["newer", "tiny"]


async def test_the_weights_of_version_0_have_their_digest_too(server, device):
    work = await device.assignment()
    job = await server.job()

    assert (job.version, job.theta_digest) == (0, work.theta_digest)


async def test_a_watch_begins_with_the_job_as_it_is_and_ends_with_the_job(server, device):
    watching = asyncio.ensure_future(everything(server.operator.WatchJob(RUN, timeout=30)))
    await work_until_done(server, device)
    seen = await watching

    assert seen[-1].state == JOB_STATE_DONE
    assert [job.state for job in seen[:-1]] == [JOB_STATE_RUNNING] * (len(seen) - 1)
    assert [job.version for job in seen] == sorted(job.version for job in seen)
    assert (seen[-1].version, seen[-1].round.phase) == (2, "committed")


async def test_a_watch_of_a_job_that_has_ended_is_one_message(server):
    await server.operator.StopJob(RUN)

    assert [job.state for job in await everything(server.operator.WatchJob(RUN))] == [JOB_STATE_STOPPED]


# stopping and resuming


async def test_a_finished_job_can_be_neither_stopped_nor_resumed(server, device):
    await work_until_done(server, device)

    assert await refusal(server.operator.StopJob(RUN)) == (
        *BAD_FIELD,
        "job tiny is done; only a running job can be stopped",
    )
    assert await refusal(server.operator.ResumeJob(RUN)) == (
        *BAD_FIELD,
        "job tiny is done; only a stopped or failed job can be resumed",
    )


async def test_a_job_that_has_ended_gets_more_rounds(server, device, clock):
    done = await work_until_done(server, device)
    with pytest.raises(grpc.aio.AioRpcError, match="rounds is 0"):
        await server.operator.ExtendJob(ExtendJobRequest(job=JOB))
    extended = await server.operator.ExtendJob(ExtendJobRequest(job=JOB, rounds=2))
    before = server.ledger()
    assert (extended.state, extended.rounds_wanted, extended.version) == (JOB_STATE_RUNNING, 4, done.version)
    with pytest.raises(grpc.aio.AioRpcError, match="is running; wait until it has ended, or stop it first"):
        await server.operator.ExtendJob(ExtendJobRequest(job=JOB, rounds=2))

    again = await work_until_done(server, device)
    assert (again.state, again.rounds_committed) == (JOB_STATE_DONE, 4)
    assert server.ledger()[:2] == before
    found = await server.operator.GetJobSpec(GetJobRequest(job=JOB))
    assert json.loads(found.resolved_json)["rounds"]["count"] == 4
    assert "count = 2" in found.spec_toml


async def test_a_running_job_cannot_be_resumed(server):
    assert await refusal(server.operator.ResumeJob(RUN)) == (
        *BAD_FIELD,
        "job tiny is running; only a stopped or failed job can be resumed",
    )


async def test_a_paused_job_ends_its_round_and_goes_on_when_it_is_resumed(server, device):
    work = await device.assignment()
    assert (await server.operator.PauseJob(RUN)).state == JOB_STATE_PAUSED
    await device.finish(work)
    paused = await server.until(lambda job: job.round.reason == "paused by an operator")
    assert (paused.state, paused.rounds_committed, paused.round.number) == (JOB_STATE_PAUSED, 1, 2)
    assert not (await device.check_in()).HasField("assignment")

    assert (await server.operator.ResumeJob(RUN)).state == JOB_STATE_RUNNING
    assert (await work_until_done(server, device)).state == JOB_STATE_DONE
    assert (await refusal(server.operator.PauseJob(RUN)))[2] == "job tiny is done; only a running job can be paused"


async def test_a_priority_is_kept_and_bounded(server):
    assert (await server.operator.SetJobPriority(SetJobPriorityRequest(job=JOB, priority=-3))).priority == -3
    assert (await server.job()).priority == -3
    status, reason, _ = await refusal(server.operator.SetJobPriority(SetJobPriorityRequest(job=JOB, priority=1001)))
    assert (status, reason) == BAD_FIELD


async def test_a_stopped_job_hands_out_no_work(server, device):
    await device.assignment()
    await server.operator.StopJob(RUN)
    answer = await device.check_in()

    assert (answer.HasField("assignment"), answer.message) == (False, "no job is running")


# exporting


def files_of(chunks: Iterable[AdapterChunk]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for chunk in chunks:
        files[chunk.file_name] = files.get(chunk.file_name, b"") + chunk.data
    return files


def check_card(card: str, server: Serving) -> None:
    """The card tells of the task, the data, the curve, the cost and the command, and of no place on this machine."""
    front, _, text = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification"
    assert "into arts, law, sport" in text
    assert 'pipeline("text-classification", model="adapter", trust_remote_code=True, truncation=True)' in text
    assert "| version | accuracy | loss |" in text
    assert "| 0 | " in text
    for figure in ("held-out rows", "their training rows", "bytes sent by all devices", "directions", "rounds"):
        assert f"| {figure}" in text
    assert "fwdllm-server job submit job.toml" in text
    job_file = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    assert job_file["model"]["source"] == "model"
    assert str(server.home.profiles.parent) not in card


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_export_is_an_adapter_with_the_trained_weights(server, device, tmp_path, stopped):
    await device.finish(await device.assignment())
    await server.until(lambda job: job.version == 1)
    (training,) = server.coordinator.training.values()
    if stopped:
        await server.operator.StopJob(RUN)
    files = files_of(await everything(server.operator.ExportAdapter(ExportAdapterRequest(job=RUN.job))))
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    tensors = load_file(tmp_path / "adapter_model.safetensors")

    own = {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    assert own | {"base/model.safetensors"} <= files.keys()
    check_card(files["README.md"].decode(), server)
    assert list(json.loads(files["base/config.json"])["id2label"].values()) == ["arts", "law", "sport"]
    for name, value in training.manifest.layout.unpack(training.state.theta).items():
        np.testing.assert_array_equal(tensors[name], value)


async def test_any_version_is_exported(server, device, tmp_path):
    (training,) = server.coordinator.training.values()
    initial = training.manifest.layout.unpack(training.state.theta.copy())
    await device.finish(await device.assignment())
    await server.until(lambda job: job.version == 1)

    async def exported(**request: Any) -> tuple[dict[str, np.ndarray], str, int]:
        chunks = await everything(server.operator.ExportAdapter(ExportAdapterRequest(job=RUN.job, **request)))
        (version,) = {chunk.version for chunk in chunks}
        files = files_of(chunks)
        (tmp_path / "tensors").write_bytes(files["adapter_model.safetensors"])
        return load_file(tmp_path / "tensors"), files["README.md"].decode(), version

    tensors, card, version = await exported(version=0, format="onnx")
    assert version == 0
    for name, value in initial.items():
        np.testing.assert_array_equal(tensors[name], value)
    assert "This is version 0 of the model" in card
    assert 'onnxruntime.InferenceSession("model/model.onnx")' in card
    newest, card, version = await exported()
    assert version == 1
    assert f"`{theta_digest(training.state.theta).hex()}`" in card
    assert any(not np.array_equal(newest[name], value) for name, value in initial.items())

    await server.until(lambda job: job.latest_evaluation.version == 1)
    best = (await server.operator.GetJob(RUN)).best_evaluation.version
    assert (await exported(best=True))[2] == best
    for wrong, words in (
        ({"version": 2}, "job tiny has no version 2; it has 0 to 1"),
        ({"format": "gguf"}, "no format 'gguf'; there are peft, transformers, onnx"),
    ):
        assert await refusal(exported(**wrong)) == (*BAD_FIELD, words)


async def test_the_history_has_every_version_with_its_evaluation(server, device):
    assert [each.version for each in (await server.operator.GetJobHistory(RUN)).versions] == [0]
    await device.finish(await device.assignment())
    await server.until(lambda job: job.latest_evaluation.version == 1)
    job = await server.operator.GetJob(RUN)
    history = await server.operator.GetJobHistory(RUN)

    assert (history.job_id, history.name) == (job.job_id, "tiny")
    first, second = history.versions
    assert (first.version, first.round, first.directions) == (0, 0, 0)
    assert first.evaluation == job.initial_evaluation
    assert (second.version, second.round, second.directions) == (1, 1, job.directions)
    assert second.evaluation.rows == 30
    assert second.committed_unix_s > 0


async def test_what_runs_has_every_default(server, workplace):
    found = await server.operator.GetJobSpec(RUN)
    resolved = json.loads(found.resolved_json)

    assert tomllib.loads(found.spec_toml)["model"]["source"] == "model"
    assert found.base_folder == str(workplace)
    for table, values in tomllib.loads(found.spec_toml).items():
        if table != "blocks":
            assert {key: resolved[table][key] for key in values} == values
    assert resolved["model"]["precision"] == "float32"
    assert resolved["blocks"]["head"]["directions"] == 12


def add_unprepared(server: Serving, name: str, now: float) -> None:
    with server.runtime.database.transaction() as connection:
        add_unprepared_job(connection, name, name, now)


async def test_before_there_is_a_model_there_is_nothing_to_export(server, clock):
    add_unprepared(server, "new", clock.now)
    words = "job new has no model yet (preparing); wait for its first round"

    assert await refusal(everything(server.operator.ExportAdapter(ExportAdapterRequest(job="new")))) == (
        *BAD_FIELD,
        words,
    )


# devices


async def test_a_join_token_for_a_name_that_is_taken_is_refused(server):
    status, reason, words = await refusal(server.operator.CreateJoinToken(CreateJoinTokenRequest(name="device-1")))

    assert (status, reason) == BAD_FIELD
    assert words.startswith('a device named "device-1" is enrolled already; choose another name')


@pytest.mark.parametrize(
    ("name", "lifetime_s", "words"),
    [
        ("", 0, "name '' is not a valid name; use 1 to 64 of a-z A-Z 0-9 . _ -"),
        ("my phone", 0, "name 'my phone' is not a valid name; use 1 to 64 of a-z A-Z 0-9 . _ -"),
        ("phone", 2_592_001, "lifetime_s is 2592001; 1 to 2592000 are allowed"),
    ],
)
async def test_a_join_token_out_of_bounds_is_refused(server, name, lifetime_s, words):
    request = CreateJoinTokenRequest(name=name, lifetime_s=lifetime_s)

    assert await refusal(server.operator.CreateJoinToken(request)) == (*BAD_FIELD, words)


async def test_a_join_token_names_the_server_and_lasts_a_day(server, clock):
    answer = await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="device-9"))
    token = JoinToken.decode(answer.join_token)

    assert token.ca_sha256 == server.authority.fingerprint
    assert answer.expires_unix_s == int(clock.now + 86_400)


async def test_an_unknown_device_cannot_be_revoked(server):
    call = server.operator.RevokeDevice(RevokeDeviceRequest(device="nobody"))

    assert await refusal(call) == (*NOT_FOUND, "no device 'nobody'; 'fwdllm-server devices list' shows them")


async def test_a_revoked_device_leaves_its_name_to_another(server):
    revoked = await server.operator.RevokeDevice(RevokeDeviceRequest(device="device-1"))
    await server.operator.CreateJoinToken(CreateJoinTokenRequest(name="device-1"))
    listed = (await server.operator.ListDevices(ListDevicesRequest())).devices

    assert revoked.revoked
    assert {device.name: device.revoked for device in listed} == {
        "device-1": True,
        "device-2": False,
        "device-3": False,
        "device-4": False,
    }


async def test_a_devices_certificate_is_refused_on_the_operator_port(server):
    identity = server.client_home("device-1").load_identity()
    opened = await server.channel(server.operator_address, identity.key, identity.certificate)
    status, reason, words = await refusal(OperatorServiceStub(opened).ListJobs(ListJobsRequest()))

    assert (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
    assert 'this call is for the role "fwdllm operator"' in words
