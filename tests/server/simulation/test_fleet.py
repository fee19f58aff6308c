"""Simulated devices behind the rounds: who is when done, who is not there, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from server.simulation.bench import Bench, device

from fwdllm_common.errors import JobFailedError
from fwdllm_server.simulation.population import Population
from fwdllm_server.store.jobs import JobState

ALIKE = [device(number, 10.0) for number in range(3)]


def test_a_job_runs_to_its_end_and_every_direction_counts_once(make_bench):
    bench = make_bench(ALIKE).run()

    assert bench.record.state == JobState.DONE
    assert bench.seeds == [
        {number << 32 | index << 24 | seed for index, count in ((0, 6), (1, 9)) for seed in range(count)}
        for number in (1, 2, 3)
    ]
    assert [bench.record.scalars_late, bench.record.scalars_repeated, bench.record.scalars_unusable] == [0, 0, 0]


def test_the_same_seed_gives_the_same_ledger(make_bench):
    first, second = (make_bench(ALIKE, {"dropout_rate": 0.3, "availability": 0.8}).run() for _ in range(2))

    assert first.entries == second.entries
    assert first.fleet.to_json() == second.fleet.to_json()


def test_the_fast_are_heard_before_the_slow(make_bench):
    """Twice as many directions as are waited for: the round is over before the slow device has sent anything."""
    devices = [device(0, 20.0), device(1, 20.0), device(2, 0.001)]
    bench = make_bench(devices, count=1, min_devices=3, over_assign=2.0, deadline_s=1e6, assignment_s=1e6).run()
    of_the_slow = {seed for work in bench.work(1) if work.device_id == "sim-2" for seed in work.seeds}

    assert len(bench.seeds[0]) >= 15
    assert of_the_slow
    assert not of_the_slow & bench.seeds[0]


def test_time_is_work_over_speed(make_bench):
    slow, fast = (make_bench([device(0, speed)], min_devices=1, count=1).run() for speed in (1.0, 4.0))

    assert slow.job_devices()["sim-0"].example_passes == fast.job_devices()["sim-0"].example_passes > 0
    assert slow.job_devices()["sim-0"].seconds == pytest.approx(4 * fast.job_devices()["sim-0"].seconds)
    assert slow.fleet.now == pytest.approx(4 * fast.fleet.now)
    assert slow.entries == fast.entries


@pytest.mark.parametrize("seed", range(5))
def test_what_vanishing_devices_leave_undone_is_offered_to_others(make_bench, seed):
    devices = [device(number, 10.0) for number in range(10)]
    bench = make_bench(devices, {"dropout_rate": 0.2, "seed": seed}, deadline_s=1e4).run()

    assert bench.record.state == JobState.DONE
    assert [len(seeds) for seeds in bench.seeds] == [15] * 3
    assert any(len(bench.work(number)) > 10 for number in (1, 2, 3))


def fate(make_bench, *vanishes: bool) -> dict[str, Any]:
    """A population whose only device vanishes, or does not, from its first assignment of each of these rounds."""
    for seed in range(1000):
        keys = {"dropout_rate": 0.5, "seed": seed}
        drawn = Population(devices=1, **keys)
        if all((drawn.vanishes(f"job1-{1 + n}-1") is not None) is gone for n, gone in enumerate(vanishes)):
            return keys
    raise AssertionError("no such seed")


def test_a_round_whose_device_has_vanished_is_abandoned_at_its_deadline_and_the_device_comes_back(make_bench):
    """It stays away for twice 30 s, but gets no second assignment in the round, which ends after 100 s."""
    bench = make_bench([device(0, 10.0)], fate(make_bench, True, False), min_devices=1, count=1).run()
    (first, ended), (second, committed) = bench.phases()

    assert (first, second) == ("abandoned", "committed")
    assert ended == pytest.approx(100, abs=1)
    assert ended < committed < ended + 30


def test_a_job_whose_rounds_are_abandoned_fails(make_bench):
    bench = make_bench([device(0, 10.0)], fate(make_bench, True, True), min_devices=1, max_abandoned=1).run()

    assert bench.record.state == JobState.FAILED
    assert "2 rounds in a row were abandoned" in bench.record.message


def test_nothing_of_a_slow_device_holds_a_round_beyond_its_deadline(make_bench):
    """Half of the directions are in at the deadline, which suffices; the other device would take hours."""
    devices = [device(0, 1000.0), device(1, 0.0001)]
    bench = make_bench(devices, min_devices=2, count=1, assignment_s=1e6, min_fraction=0.4).run()
    ((phase, since),) = bench.phases()

    assert phase == "committed"
    assert since == pytest.approx(100, abs=1)
    assert len(bench.seeds[0]) < 15


def test_what_a_silent_device_holds_is_given_to_others_in_time(make_bench):
    """The slow device's first scalar would take hours: its part is measured by the other one, long before that."""
    devices = [device(0, 1000.0), device(1, 0.0001)]
    bench = make_bench(devices, min_devices=2, count=1, deadline_s=1e6).run()
    ((phase, since),) = bench.phases()

    assert (phase, len(bench.seeds[0])) == ("committed", 15)
    assert since <= 31


def test_who_is_late_is_counted_and_told_to_stop(make_bench):
    """The slow device sends some scalars in time, one group late, and is then free although it had more to do."""
    devices = [device(0, 200.0), device(1, 200.0), device(2, 10.0)]
    bench = make_bench(devices, min_devices=3, count=2, over_assign=2.0).run()
    last = bench.fleet.now

    assert bench.record.scalars_late > 0
    assert bench.record.scalars_late < len(bench.work(1)[2].seeds)
    assert bench.job_devices()["sim-2"].seconds < last + 1


def test_a_round_waits_for_those_who_are_there(make_bench):
    """All three at once: a coin three times, each minute."""
    bench = make_bench(ALIKE, {"availability": 0.5}, min_devices=3, count=1).run()
    here = [slot for slot in range(100) if bench.population.present(slot, 3).all()]

    assert here[0] > 0
    assert here[0] * 60 <= bench.phases()[0][1] < here[0] * 60 + 10


def test_only_those_who_are_there_are_chosen(make_bench):
    devices = [device(number, 10.0) for number in range(10)]
    bench = make_bench(devices, {"availability": 0.5}, min_devices=2, count=1, gather_s=0).run()
    (here,) = bench.population.present(0, 10).nonzero()

    assert {work.device_id for work in bench.work(1)} == {f"sim-{number}" for number in here}


def test_devices_that_are_never_there_together_end_the_run(make_bench, monkeypatch):
    monkeypatch.setattr("fwdllm_server.simulation.fleet.LONGEST_WAIT_S", 86400.0)
    devices = [device(number, 10.0) for number in range(10)]
    bench = make_bench(devices, {"availability": 0.01}, min_devices=10, count=1)

    with pytest.raises(JobFailedError, match="never present together; lower min_devices"):
        bench.run()
    assert bench.fleet.now == pytest.approx(86400, abs=61)


def test_nobody_waits_a_month_for_devices_that_do_not_exist(make_bench):
    with pytest.raises(JobFailedError, match="never present together"):
        make_bench(ALIKE, min_devices=4).run()


def test_federated_evaluation_counts_the_devices_validation_rows(make_bench):
    bench = make_bench(ALIKE, federated_evaluate_every=1, count=1).run()

    assert [work.total for work in bench.work(1)] == [2, 2, 2]
    assert all(0 <= work.correct <= 2 for work in bench.work(1))


def test_bytes_are_those_of_the_messages(make_bench):
    """θ once, then the ledger; 4 bytes a scalar and what is around them."""
    bench = make_bench(ALIKE)
    snapshot = len(bench.job.state.to_bytes())
    bench.run()
    spent = bench.job_devices()
    bundle = sum(file.bytes for file in bench.job.manifest.files)

    assert {row.artifact_bytes for row in spent.values()} == {bundle}
    assert all(4 * row.scalars < row.bytes_sent < 4 * row.scalars + 3 * 150 for row in spent.values())
    assert all(snapshot < row.bytes_received < 2 * snapshot + 3 * 400 for row in spent.values())


@pytest.mark.parametrize("vary", [{}, {"dropout_rate": 0.3, "availability": 0.7}])
def test_a_fleet_that_is_put_away_between_any_two_steps_goes_on_the_same(make_bench, vary):
    """Put away and taken out again before every single step, also in the middle of a second's events."""
    devices = [device(number, 2.0 + number) for number in range(6)]
    keys = {"over_assign": 1.5, "deadline_s": 60.0, "federated_evaluate_every": 2}
    whole = make_bench(devices, vary, **keys).run()
    pieces = make_bench(devices, vary, **keys)

    async def interrupted(bench: Bench) -> None:
        while True:
            old, cost = bench.fleet, bench.cost.to_bytes()
            bench.fleet = bench.new_fleet()
            bench.fleet.restore(old.to_json())
            bench.cost.restore(cost)
            task = asyncio.create_task(one_step(bench))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()  # while it catches up
            with contextlib.suppress(asyncio.CancelledError):
                if await task:
                    return

    async def one_step(bench: Bench) -> bool:
        await bench.fleet.catch_up()
        step = await bench.fleet.advance(bench.machine)
        if step.state is not None:
            await bench.evaluate(step.state)
        if not step.moved:
            await bench.fleet.news(step.look_again_s)
        return step.job_ended

    asyncio.run(interrupted(pieces))

    assert pieces.entries == whole.entries
    assert pieces.fleet.to_json() == whole.fleet.to_json()
    assert pieces.job_devices() == whole.job_devices()
