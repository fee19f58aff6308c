"""An agent that may not work gives back what it has, loses nothing, and comes back."""

from dataclasses import replace

import pytest

from fwdllm.v1.conditions_pb2 import HOLD_METERED, HOLD_PAUSED, HOLD_UNPLUGGED
from fwdllm_client.agent.session import HELD_WINDOW, LOOK_EVERY_S
from fwdllm_client.conditions import Conditions, Rules, Thermal
from fwdllm_client.engine.interruption import RunEndedError
from fwdllm_client.policy.choices import Choices
from fwdllm_common.errors import HeldError
from fwdllm_common.job_choice import JobChoice

WELL = Conditions(True, 100.0, False, Thermal.NONE)
UNPLUGGED = replace(WELL, charging=False)
SEEDS = [1, 2, 3, 4, 5, 6, 50, 51, 52, 53]


@pytest.fixture
def work(coordinator, job):
    """Is handed out to whoever is not held, and given back by whoever is."""

    def on_check_in(request):
        if request.conditions.holds:
            return job.answer(None, ["a1"])
        return job.answer(job.assignment(evaluate=True, deadline_ms=10**9))

    coordinator.on_check_in = on_check_in


def after(device, count, act):
    """Do something as soon as so many directions are computed; readings are old by then."""

    def before_chunk():
        device.now += 10
        if len(device.compute.computed) == count:
            act()

    device.compute.before_chunk = before_chunk


def held(request):
    return list(request.conditions.holds)


def test_a_device_that_may_not_work_says_so_and_fetches_nothing(device, coordinator, work, new_stop):
    device.sensors.conditions = UNPLUGGED
    device.run(new_stop(last=3))
    (request,) = coordinator.check_ins

    assert held(request) == [HOLD_UNPLUGGED]
    assert coordinator.artifact_requests == coordinator.weights_requests == coordinator.reports == []
    assert device.compute.computed == []


def test_work_that_an_older_coordinator_hands_out_all_the_same_is_not_done(device, coordinator, job, new_stop):
    coordinator.on_check_in = lambda request: job.answer(job.assignment())
    device.sensors.conditions = UNPLUGGED
    device.run(new_stop(last=3))

    assert coordinator.artifact_requests == coordinator.reports == []


def test_a_held_device_waits_long_in_short_steps(device, coordinator, work, new_stop):
    device.sensors.conditions = UNPLUGGED
    stop = new_stop()
    stop.on_wait = lambda seconds: setattr(stop, "stopped", len(coordinator.check_ins) == 2)
    device.run(stop)

    assert max(stop.waits) == LOOK_EVERY_S
    assert HELD_WINDOW.min_ms <= 1000 * sum(stop.waits[:-1]) <= HELD_WINDOW.max_ms


def test_it_reads_its_sensors_now_and_then_while_it_waits(device, coordinator, work, new_stop):
    device.sensors.conditions = UNPLUGGED
    stop = new_stop(last=100)
    stop.on_wait = lambda seconds: setattr(device, "now", device.now + seconds)
    device.run(stop)

    assert 4 <= device.sensors.readings <= 5  # in 500 seconds


def test_it_works_as_soon_as_it_may(device, coordinator, work, new_stop):
    device.sensors.conditions = UNPLUGGED
    stop = new_stop()

    def on_wait(seconds):
        device.now += seconds
        if device.now > 300:
            device.sensors.conditions = WELL
        stop.stopped = len(coordinator.reports) > 0 or len(stop.waits) > 1000

    stop.on_wait = on_wait
    device.run(stop)

    assert device.compute.computed == SEEDS
    assert sum(stop.waits) < 300 + 2 * 120 + 120 + 3 * LOOK_EVERY_S


@pytest.mark.parametrize("conditions", [UNPLUGGED, replace(WELL, metered=True), replace(WELL, thermal=Thermal.SEVERE)])
@pytest.mark.parametrize("count", [0, 2, 4, 8])
def test_it_gives_back_after_the_directions_that_are_being_computed(
    device, coordinator, work, new_stop, conditions, count
):
    after(device, count, lambda: setattr(device.sensors, "conditions", conditions))
    device.run(new_stop(last=2))
    first, second = coordinator.check_ins

    assert device.compute.computed == SEEDS[: count + 2]
    assert (held(first), len(held(second))) == ([], 1)
    assert sum(len(report.derivatives) for report in coordinator.reports) == count + 2
    assert coordinator.reports[0].evaluation.total == 5
    assert device.unacknowledged() == []


@pytest.mark.parametrize("count", [0, 4])
def test_a_run_that_is_ended_from_outside_is_given_back(device, coordinator, work, new_stop, count):
    """What was measured before counts; the job has not failed."""

    def end():
        device.sensors.conditions = UNPLUGGED
        raise RunEndedError

    after(device, count, end)
    device.run(new_stop(last=2))
    first, second = coordinator.check_ins

    assert (held(first), len(held(second))) == ([], 1)
    assert sum(len(report.derivatives) for report in coordinator.reports) == count
    assert list(second.failures) == []


def test_a_count_of_the_validation_rows_is_interrupted_too(device, coordinator, work, new_stop):
    def evaluate(theta):
        device.sensors.conditions = UNPLUGGED
        device.now += 20
        device.compute.check_cancelled()
        pytest.fail("went on")

    device.compute.evaluate = evaluate
    device.run(new_stop(last=2))
    assert [held(request) for request in coordinator.check_ins] == [[], [HOLD_UNPLUGGED]]
    assert coordinator.reports == []
    assert device.compute.computed == []
    assert device.compute.unloaded == 1


def test_the_check_in_that_gives_back_is_made_at_once(device, coordinator, work, new_stop):
    after(device, 2, lambda: setattr(device.sensors, "conditions", UNPLUGGED))
    stop = new_stop(last=2)
    device.run(stop)

    assert stop.waits[0] == 0


def test_it_goes_on_where_it_was_when_it_gets_the_same_work_again(device, coordinator, work, new_stop):
    after(device, 4, lambda: setattr(device.sensors, "conditions", UNPLUGGED))
    stop = new_stop()

    def on_wait(seconds):
        device.now += seconds
        if len(stop.waits) == 30:
            device.sensors.conditions = WELL
            device.compute.before_chunk = lambda: None
        stop.stopped = len(device.compute.computed) == len(SEEDS) or len(stop.waits) > 1000

    stop.on_wait = on_wait
    device.run(stop)

    assert device.compute.computed == SEEDS
    assert device.compute.evaluations == 1


def test_a_pause_acts_on_a_running_agent(device, coordinator, work, new_stop):
    after(device, 2, lambda: device.choices.write(Choices(paused=True)))
    device.run(new_stop(last=2))

    assert device.compute.computed == SEEDS[:4]
    assert held(coordinator.check_ins[1]) == [HOLD_PAUSED]


def test_so_does_its_end(device, coordinator, work, new_stop):
    device.choices.write(Choices(paused=True))
    stop = new_stop()

    def on_wait(seconds):
        if len(stop.waits) == 3:
            device.choices.write(Choices())
        stop.stopped = len(stop.waits) > 4

    stop.on_wait = on_wait
    device.run(stop)

    assert stop.waits[:3] == [LOOK_EVERY_S] * 3
    assert device.compute.computed == SEEDS


def test_denying_the_job_acts_on_a_running_agent(device, coordinator, work, new_stop):
    after(device, 2, lambda: device.choices.write(Choices(jobs=JobChoice().deny("quadratic"))))
    device.run(new_stop(last=2))

    assert device.compute.computed == SEEDS[:4]
    assert list(coordinator.check_ins[1].jobs.names) == ["quadratic"]
    assert held(coordinator.check_ins[1]) == []


def test_a_job_that_is_not_allowed_is_left_undone_without_hurry(device, coordinator, job, new_stop):
    coordinator.on_check_in = lambda request: job.answer(job.assignment())
    device.choices.write(Choices(jobs=JobChoice().deny("quadratic")))
    stop = new_stop(last=1)
    device.run(stop)

    assert stop.waits == [0.007]
    assert coordinator.artifact_requests == []


def test_a_download_ends_with_the_free_network_and_goes_on_from_there(device, coordinator, work, job, new_stop):
    body = bytes.fromhex(job.manifest.stages[1].graph.sha256)

    def artifact(request):
        if request.sha256 == body and request.offset == 0:
            device.now += 10
            device.sensors.conditions = replace(WELL, metered=True)
        yield from coordinator.artifact(request)

    coordinator.on_artifact = artifact
    device.run(new_stop(last=3))
    assert held(coordinator.check_ins[1]) == [HOLD_METERED]
    assert device.compute.computed == []

    device.sensors.conditions = WELL
    device.run(new_stop(last=1))
    assert device.compute.computed == SEEDS
    assert [request.offset for request in coordinator.artifact_requests if request.sha256 == body] == [0, 16]


def test_a_session_has_an_end(device, coordinator, work, new_stop):
    device.rules = Rules(session_s=25.0, settle_s=40.0)
    after(device, None, lambda: None)  # each chunk of two directions takes ten seconds
    stop = new_stop()

    def on_wait(seconds):
        device.now += seconds
        stop.stopped = len(device.compute.computed) == len(SEEDS) or len(stop.waits) > 100

    stop.on_wait = on_wait
    device.run(stop, clock=lambda: device.now)

    assert device.compute.computed == SEEDS
    assert 40 <= sum(stop.waits) < 100


def test_once_on_a_held_device_says_so_and_fails(device, coordinator, work, new_stop):
    device.sensors.conditions = UNPLUGGED
    with pytest.raises(HeldError, match="fwdllm-client status"):
        device.run(new_stop(), once=True)
    assert len(coordinator.check_ins) == 1


def test_once_gives_back_what_it_may_not_end(device, coordinator, work, new_stop):
    after(device, 4, lambda: setattr(device.sensors, "conditions", UNPLUGGED))
    with pytest.raises(HeldError):
        device.run(new_stop(), once=True)

    assert [held(request) for request in coordinator.check_ins] == [[], [HOLD_UNPLUGGED]]
    assert sum(len(report.derivatives) for report in coordinator.reports) == 6
