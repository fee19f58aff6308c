"""CheckIn: who is served, with what, and when to come back."""

from __future__ import annotations

import grpc
import pytest
from helpers.serving import derivative, everything, refusal, seeds_of

from fwdllm.v1.conditions_pb2 import HOLD_HOT, HOLD_LOW_BATTERY, THERMAL_STATE_SEVERE, Conditions
from fwdllm.v1.device_pb2 import AssignmentFailure, JobChoice, ProtocolVersion
from fwdllm.v1.operator_pb2 import GetJobRequest, ListDevicesRequest
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR, PROTOCOL_MINOR

BAD_FIELD = (grpc.StatusCode.INVALID_ARGUMENT, "bad-field")


@pytest.mark.parametrize("major", [0, PROTOCOL_MAJOR + 1])
async def test_another_major_protocol_is_refused(device, major):
    status, reason, words = await refusal(device.check_in(protocol=ProtocolVersion(major=major)))

    assert (status, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "protocol-version")
    assert f"protocol {major}.0 is not supported" in words


@pytest.mark.parametrize("minor", [max(0, PROTOCOL_MINOR - 1), PROTOCOL_MINOR + 1])
async def test_one_minor_older_or_newer_is_served(device, minor):
    answer = await device.check_in(protocol=ProtocolVersion(major=PROTOCOL_MAJOR, minor=minor))

    assert answer.message == "waiting for a round"


@pytest.mark.parametrize("version", [0, GENERATOR_VERSION + 1])
async def test_another_generator_of_directions_is_refused(device, version):
    status, reason, words = await refusal(device.check_in(generator_version=version))

    assert (status, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "generator-version")
    assert f"generator version {version}" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": []}, "number of labels is 0; 1 to 1024 are allowed"),
        ({"labels": [str(i) for i in range(1025)]}, "number of labels is 1025; 1 to 1024 are allowed"),
        ({"labels": [""]}, "label has 0 characters; 1 to 256 are allowed"),
        ({"labels": ["x" * 257]}, "label has 257 characters; 1 to 256 are allowed"),
        ({"training_examples": 0}, "training_examples is 0; 1 to 1000000000 are allowed"),
        ({"training_examples": 10**9 + 1}, "training_examples is 1000000001; 1 to 1000000000 are allowed"),
        ({"software": "x" * 257}, "software has 257 characters; 0 to 256 are allowed"),
        ({"software": "fwdllm\x1b[2J"}, "software has characters that cannot be printed"),
        ({"capabilities": ["x"] * 33}, "number of capabilities is 33; 0 to 32 are allowed"),
        ({"capabilities": ["x" * 65]}, "capability has 65 characters; 1 to 64 are allowed"),
        ({"conditions": Conditions(battery_percent=101)}, "battery_percent is 101.0; 0 to 100 are allowed"),
        ({"conditions": Conditions(battery_percent=float("nan"))}, "battery_percent is nan; 0 to 100 are allowed"),
        ({"conditions": Conditions(holds=[1] * 17)}, "number of holds is 17; 0 to 16 are allowed"),
        ({"failures": [AssignmentFailure()] * 17}, "number of failures is 17; 0 to 16 are allowed"),
        ({"failures": [AssignmentFailure()]}, "assignment_id has 0 characters; 1 to 96 are allowed"),
        (
            {"failures": [AssignmentFailure(assignment_id="a", code="No code")]},
            "a failure has a code that is not of a-z and -, or a message that cannot be printed",
        ),
        ({"jobs": JobChoice(names=["x"] * 257)}, "number of jobs is 257; 0 to 256 are allowed"),
        ({"jobs": JobChoice(names=["x" * 65])}, "job has 65 characters; 1 to 64 are allowed"),
    ],
)
async def test_fields_out_of_bounds_are_refused(device, changes, words):
    assert await refusal(device.check_in(**changes)) == (*BAD_FIELD, words)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"labels": ["arts", "poetry"]}, "label 'poetry' is not one of the job's (arts, law, sport)"),
        (
            {"labels": [], "task": "question-answering"},
            "the job is for classification, the data of this device is for question-answering",
        ),
        ({"jobs": JobChoice(only=True, names=["mine"])}, "the owner of this device does not allow the job"),
    ],
)
async def test_a_device_that_no_job_is_for_waits_and_is_told_why(device, changes, why):
    """The jobs of others are no error of a device: its own may begin at any time."""
    answer = await device.check_in(**changes)

    assert answer.message == f"this device cannot take part in any running job: tiny: {why}"
    assert not answer.HasField("assignment")
    assert answer.next.max_ms > 0


async def test_the_names_of_many_long_labels_are_shortened(server, device):
    job = next(iter(server.coordinator.training.values()))
    object.__setattr__(job.manifest, "labels", tuple(f"{i} {'é' * 200}" for i in range(1024)))
    answer = await device.check_in(labels=["ü" * 256])

    assert len(answer.message) < 700


async def test_a_device_that_cannot_do_a_job_gets_no_more_of_it(server, device):
    """Its work goes to others at once, and the operator is told which device cannot do it and why."""
    work = await device.assignment()
    failure = AssignmentFailure(assignment_id=work.assignment_id, code="engine", message="its ONNX Runtime fails")
    answer = await device.check_in(failures=[failure])
    assert not answer.HasField("assignment")
    assert answer.open_assignments == [work.assignment_id]  # what it has measured counts

    job = await server.job()
    assert [each.failure for each in job.devices] == ["engine: its ONNX Runtime fails"]
    listed = (await server.operator.ListDevices(ListDevicesRequest())).devices
    (failing,) = [each for each in listed if each.failures]
    assert (failing.name, list(failing.reasons)) == ("device-1", ["failing"])
    assert dict(failing.failures) == {"tiny": "engine: its ONNX Runtime fails"}


async def test_nobody_fails_for_another(server, device, other):
    work = await device.assignment()
    failure = AssignmentFailure(assignment_id=work.assignment_id, code="engine", message="")
    await other.check_in(failures=[failure])

    assert (await device.check_in()).assignment.assignment_id == work.assignment_id
    assert [each.failure for each in (await server.job()).devices if each.failure] == []


async def test_without_a_running_job_any_label_is_welcome(server, device):
    await server.operator.StopJob(GetJobRequest(job="tiny"))
    answer = await device.check_in(labels=["poetry"])

    assert answer.message == "no job is running"


async def test_the_window_is_the_busy_one_while_a_job_runs_and_the_idle_one_else(start, monkeypatch):
    for key, value in {"BUSY_MIN": 7, "BUSY_MAX": 9, "IDLE_MIN": 70, "IDLE_MAX": 90}.items():
        monkeypatch.setenv(f"FWDLLM_CHECK_IN__{key}_MS", str(value))
    server = await start()
    device = await server.device("device-1")
    busy = (await device.check_in()).next
    await server.operator.StopJob(GetJobRequest(job="tiny"))
    idle = (await device.check_in()).next

    assert [(window.min_ms, window.max_ms) for window in (busy, idle)] == [(7, 9), (70, 90)]


async def test_every_answer_says_when_to_come_back(device):
    waiting = await device.check_in()
    work = await device.assignment()
    working = await device.check_in()
    reported = await device.report(work.assignment_id, [0.5])

    assert working.HasField("assignment")
    for answer in (waiting, working, reported):
        assert 0 < answer.next.min_ms <= answer.next.max_ms


async def test_an_assignment_names_the_run_its_weights_and_its_directions(server, device):
    work = await device.assignment()
    (job,) = server.coordinator.training.values()

    assert (work.job_id, work.job_name, work.round, work.version) == (job.id, "tiny", 1, 0)
    assert work.header.SerializeToString(deterministic=True) == job.header.to_bytes()
    assert (work.theta_digest, work.manifest_sha256.hex()) == (job.state.digest, job.manifest_sha256)
    assert {task.block: sum(span.count for span in task.seeds) for task in work.directions} == {"head": 12, "peft": 8}
    assert len(set(seeds_of(work))) == 20


async def test_a_device_that_restarts_gets_the_same_assignment_again(server, device):
    first = await device.assignment()
    again = await (await server.device("device-1")).assignment()

    assert again == first


async def test_open_assignments_are_those_of_the_device(device, other):
    work = await device.assignment()

    assert (await device.check_in()).open_assignments == [work.assignment_id]
    assert (await other.check_in()).open_assignments == []


async def test_the_deadline_comes_closer_as_time_passes(server, device, clock):
    await device.assignment()
    await server.until(lambda job: job.round.phase == "collecting")
    clock.now += 10.25
    assert (await device.assignment()).deadline_ms == 89_750

    clock.now += 10
    assert (await device.assignment()).deadline_ms == 79_750


async def test_the_operator_sees_what_a_device_says_of_itself(server, device, clock):
    await device.check_in(training_examples=77, software="fwdllm/9")
    found = {d.device_id: d for d in (await server.operator.ListDevices(ListDevicesRequest())).devices}[device.id]

    assert (found.training_examples, found.software, found.last_seen_unix_s) == (77, "fwdllm/9", int(clock.now))


async def test_the_operator_sees_a_devices_conditions(server, device):
    said = Conditions(charging=True, battery_percent=81.5, thermal=THERMAL_STATE_SEVERE, holds=[HOLD_HOT])
    await device.check_in(conditions=said)
    found = {d.device_id: d for d in (await server.operator.ListDevices(ListDevicesRequest())).devices}

    assert found[device.id].conditions == said
    assert not any(d.HasField("conditions") for name, d in found.items() if name != device.id)


async def test_a_held_device_is_not_selected(server, device):
    for _ in range(5):
        answer = await device.check_in(conditions=Conditions(holds=[HOLD_LOW_BATTERY]))
        assert not answer.HasField("assignment")

    assert answer.message == "the conditions of this device do not allow work now"
    assert (await server.job()).round.phase == "selecting"
    assert (await device.assignment()).round == 1


async def test_a_held_device_gives_back_what_it_has_and_another_gets_it(device, other):
    work = await device.assignment()
    await device.report(work.assignment_id, [derivative(seed) for seed in seeds_of(work)[:5]])
    answer = await device.check_in(conditions=Conditions(holds=[HOLD_LOW_BATTERY]))

    assert not answer.HasField("assignment")
    assert answer.open_assignments == [work.assignment_id]  # what is under way still counts
    got: list[int] = []
    while len(got) < len(seeds_of(work)[5:]):  # at most half of a round at once
        part = await other.assignment()
        assert seeds_of(part)
        got += seeds_of(part)
        await other.finish(part)
    assert sorted(got) == sorted(seeds_of(work)[5:])


async def test_a_device_gets_nothing_of_a_job_that_its_owner_does_not_allow(server, device):
    await device.assignment()
    refused = JobChoice(names=["tiny"])
    assert not (await device.check_in(jobs=refused)).HasField("assignment")
    for _ in range(5):
        assert not (await device.check_in(jobs=refused)).HasField("assignment")

    assert (await device.assignment()).job_name == "tiny"


async def test_an_operators_certificate_is_refused_on_the_device_port(server):
    from fwdllm.v1.device_pb2 import GetArtifactRequest
    from fwdllm.v1.device_pb2_grpc import DeviceServiceStub

    opened = await server.channel(
        server.device_address, server.home.operator_key.read_bytes(), server.home.operator_certificate.read_bytes()
    )
    status, reason, _ = await refusal(everything(DeviceServiceStub(opened).GetArtifact(GetArtifactRequest())))

    assert (status, reason) == (grpc.StatusCode.PERMISSION_DENIED, "not-yours")
