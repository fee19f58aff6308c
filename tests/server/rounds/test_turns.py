"""Several jobs and the same devices: priorities, pauses, turns, needs and the bound of a day."""

from helpers.rig import JOB, Rig
from helpers.tiny_job import LABELS, add_tiny_job, job_toml, load_job

from fwdllm_common.protocol import FEATURE_SUMS
from fwdllm_server.rounds.machine import RoundMachine
from fwdllm_server.rounds.presence import Present
from fwdllm_server.store import assignments, jobs, participation, rounds
from fwdllm_server.store.rounds import Phase

OTHER = "job2"


class Pair:
    """Two jobs in one coordinator; each is driven by a machine of its own."""

    def __init__(self, rig: Rig, **other_rounds: int) -> None:
        self.rig = rig
        toml = job_toml({"job": {"name": "other"}, "rounds": {"min_devices": 1, **other_rounds}})
        add_tiny_job(rig.database, rig.artifacts, toml, OTHER)
        loaded = {JOB: rig.job, OTHER: load_job(rig.database, rig.artifacts, OTHER)}
        self.machines = {
            name: RoundMachine(rig.database, rig.artifacts, rig.presence, job, jobs=lambda: loaded)
            for name, job in loaded.items()
        }

    def here(self, *devices: str) -> None:
        for device in devices:
            self.rig.presence.seen(Present(device, self.rig.now, frozenset(LABELS)))

    def settle(self, *names: str) -> None:
        for name in names:
            while self.machines[name].advance(self.rig.now).moved:
                pass

    def cohort(self, name: str) -> list[str]:
        with self.rig.database.transaction() as connection:
            current = rounds.latest(connection, name)
            return [work.device_id for work in assignments.of_round(connection, name, current.number)]

    def reason(self, name: str) -> str:
        with self.rig.database.transaction() as connection:
            return rounds.latest(connection, name).reason

    def prioritise(self, name: str, priority: int) -> None:
        with self.rig.database.transaction() as connection:
            jobs.set_priority(connection, name, priority)


def test_devices_go_to_the_job_of_the_higher_priority(make_rig):
    pair = Pair(make_rig(min_devices=1))
    pair.prioritise(OTHER, 5)
    pair.settle(OTHER, JOB)  # both wait
    pair.here("a", "b")
    pair.settle(JOB)

    assert pair.cohort(JOB) == []
    assert pair.reason(JOB) == "waiting for devices: 0 of 1 are here; 2 more are reserved for jobs of higher precedence"
    pair.settle(OTHER)
    assert pair.cohort(OTHER) == ["a", "b"]
    pair.here("c")
    pair.settle(JOB)
    assert pair.cohort(JOB) == ["c"]


def test_a_job_that_cannot_begin_keeps_nothing_from_others(make_rig):
    pair = Pair(make_rig(min_devices=1), min_devices=4)
    pair.prioritise(OTHER, 5)
    pair.settle(OTHER, JOB)
    pair.here("a", "b")
    pair.settle(JOB)

    assert pair.cohort(JOB) == ["a", "b"]


def test_it_keeps_them_while_those_at_work_make_up_for_what_it_lacks(make_rig):
    pair = Pair(make_rig(min_devices=1), min_devices=4)
    pair.settle(JOB)
    pair.here("a", "b")
    pair.settle(JOB)
    pair.prioritise(OTHER, 5)
    pair.settle(OTHER)
    pair.here("c", "d")
    pair.settle(OTHER)

    assert "2 of 4" in pair.reason(OTHER)
    with pair.rig.database.transaction() as connection:  # the first job's next round
        rounds.begin(connection, JOB, 2, 0, pair.rig.now)
    pair.settle(JOB)
    assert pair.cohort(JOB) == []


def test_equal_jobs_take_turns(make_rig):
    pair = Pair(make_rig(min_devices=1))
    turns = []
    for _ in range(6):
        pair.here("a", "b")
        pair.settle(JOB, OTHER)
        (name,) = [name for name in (JOB, OTHER) if pair.cohort(name)]
        turns.append(name)
        with pair.rig.database.transaction() as connection:
            current = rounds.latest(connection, name)
            assignments.expire_open(connection, name, current.number)
            rounds.begin(connection, name, current.number + 1, 0, pair.rig.now)
        pair.rig.now += 1

    assert turns[0] != turns[1]
    assert turns == turns[:2] * 3


def test_a_paused_job_ends_its_round_and_begins_no_other(make_rig):
    rig = make_rig(min_devices=1)
    work = rig.begin_round("a")
    with rig.database.transaction() as connection:
        jobs.paused(connection, JOB)
    for each in work:
        rig.finish(each)
    rig.settle()
    rig.check_in("a")
    rig.settle()

    assert rig.phases() == [Phase.COMMITTED, Phase.SELECTING]
    assert rig.round.reason == "paused by an operator"
    with rig.database.transaction() as connection:
        jobs.resumed(connection, JOB, 1.0)
    rig.settle()
    assert rig.round.phase == Phase.ASSIGNED


def test_no_device_gets_more_than_the_days_bound(make_rig):
    rig = make_rig({"devices": {"per_day": 2}}, count=5, min_devices=1)
    for _ in range(2):
        for work in rig.begin_round("a"):
            rig.finish(work)
        rig.settle()
    assert rig.begin_round("a") == []
    other = rig.begin_round("a", "b")
    assert [work.device_id for work in other] == ["b"]

    for work in other:
        rig.finish(work)
    rig.settle()
    rig.now += participation.DAY_S
    assert [work.device_id for work in rig.begin_round("a")] == ["a"]


def test_the_days_bound_counts_the_work_of_all_jobs(make_rig):
    pair = Pair(make_rig({"devices": {"per_day": 1}}, min_devices=1))
    pair.prioritise(OTHER, 5)
    pair.settle(OTHER, JOB)
    pair.here("a")
    pair.settle(OTHER)
    assert pair.cohort(OTHER) == ["a"]
    with pair.rig.database.transaction() as connection:
        assignments.expire_open(connection, OTHER, 1)
    pair.prioritise(OTHER, -5)
    pair.here("a")
    pair.settle(JOB)
    assert pair.cohort(JOB) == []
    pair.here("b")
    pair.settle(JOB)
    assert pair.cohort(JOB) == ["b"]


def test_a_job_takes_devices_that_have_what_it_needs(make_rig):
    needs = {"min_examples": 50, "min_memory_mb": 2, "capabilities": [FEATURE_SUMS]}
    rig = make_rig({"devices": needs}, min_devices=1)
    labels, able, room = frozenset(LABELS), frozenset((FEATURE_SUMS, "more")), 2 << 20
    for device, capabilities, examples, memory in (
        ("a", able, 50, room),
        ("b", frozenset(), 50, room),
        ("c", able, 49, room),
        ("d", able, 50, room - 1),
    ):
        rig.presence.seen(
            Present(device, rig.now, labels, capabilities, training_examples=examples, memory_bytes=memory)
        )
    rig.settle()

    assert [work.device_id for work in rig.work_of_round()] == ["a"]
