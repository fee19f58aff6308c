from math import inf

import pytest
from helpers.rig import JOB
from sqlalchemy.exc import IntegrityError

from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.store import rounds
from fwdllm_server.store.rounds import Phase

PLAN = BlockPlan("head", (range(1 << 32, (1 << 32) + 8), range(1 << 33, (1 << 33) + 1)), 8, 1e-3, 16, 0.1, central=True)
LONGER = PLAN.extended(16, range(PLAN.end_seed, PLAN.end_seed + 9))


def test_the_newest_round_is_the_current_one(connection):
    assert rounds.latest(connection, JOB) is None

    rounds.begin(connection, JOB, 1, 0, 5.0)
    rounds.begin(connection, JOB, 2, 1, 6.0)
    record = rounds.latest(connection, JOB)
    assert (record.number, record.version, record.phase, record.phase_since) == (2, 1, Phase.SELECTING, 6.0)


def test_a_round_number_is_used_once(connection):
    rounds.begin(connection, JOB, 1, 0, 5.0)

    with pytest.raises(IntegrityError), connection.begin_nested():
        rounds.begin(connection, JOB, 1, 0, 5.0)


def test_a_plan_is_kept_whole(connection):
    rounds.begin(connection, JOB, 1, 0, 5.0)
    rounds.set_plan(connection, rounds.latest(connection, JOB), (PLAN, LONGER))

    assert rounds.latest(connection, JOB).plan == (PLAN, LONGER)


def test_an_infinite_variance_is_kept(connection):
    rounds.begin(connection, JOB, 1, 0, 5.0)
    rounds.set_variance(connection, rounds.latest(connection, JOB), inf, 2.0)

    assert rounds.latest(connection, JOB).variance == inf


def test_a_phase_has_its_time_and_reason(connection):
    rounds.begin(connection, JOB, 1, 0, 5.0)
    rounds.enter(connection, rounds.latest(connection, JOB), Phase.COLLECTING, 8.0, "3 devices at work")
    record = rounds.latest(connection, JOB)

    assert (record.phase, record.phase_since, record.reason) == (Phase.COLLECTING, 8.0, "3 devices at work")


@pytest.mark.parametrize(
    ("phases", "in_a_row"),
    [
        ([], 0),
        ([Phase.ABANDONED], 1),
        ([Phase.ABANDONED, Phase.COMMITTED], 0),
        ([Phase.ABANDONED, Phase.COMMITTED, Phase.ABANDONED, Phase.ABANDONED], 2),
        ([Phase.COMMITTED, Phase.ABANDONED, Phase.COLLECTING], 1),
    ],
)
def test_abandoned_rounds_count_since_the_last_that_committed(connection, phases, in_a_row):
    for number, phase in enumerate(phases, 1):
        rounds.begin(connection, JOB, number, 0, 0.0)
        rounds.enter(connection, rounds.latest(connection, JOB), phase, 0.0)

    assert rounds.abandoned_in_a_row(connection, JOB) == in_a_row
    assert rounds.count_in(connection, JOB, Phase.ABANDONED) == phases.count(Phase.ABANDONED)
