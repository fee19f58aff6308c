"""Over-assignment that follows from what devices did in the last rounds."""

import pytest
from helpers.rig import JOB
from helpers.stored import record

from fwdllm_server.config.job_sections import RoundsSection

DEVICES = ("a", "b", "c", "d", "e")

AUTO = {"rounds": {"count": 40, "min_devices": 1, "over_assign": "auto", "accept_s": 5.0, "assignment_s": 10.0}}


def run_rounds(rig, count, lazy=()):
    """Rounds of five devices of which the ``lazy`` ones never report; another does what they have left."""
    for _ in range(count):
        for each in rig.begin_round(*DEVICES):
            if each.device_id not in lazy:
                rig.finish(each)
        rig.later(4)  # more than a quarter of assignment_s
        rig.check_in("a")
        rig.settle()
        for each in rig.check_in("a"):
            rig.finish(each)
        rig.settle()


def assigned(rig):
    rig.check_in(*DEVICES)
    rig.settle()
    return sum(len(plan.seeds) for plan in rig.round.plan), sum(plan.wanted for plan in rig.round.plan)


def test_without_drop_out_no_direction_is_wasted(make_rig):
    rig = make_rig(AUTO)
    run_rounds(rig, 6)

    assert assigned(rig) == (15, 15)


def test_what_vanishes_is_made_up_for(make_rig):
    rig = make_rig(AUTO)
    run_rounds(rig, 6, lazy=("e",))
    handed_out, wanted = assigned(rig)

    assert wanted == 15
    assert 18 <= handed_out <= 20  # one of five or six assignments


def test_who_was_at_work_when_its_round_closed_has_not_vanished(make_rig):
    rig = make_rig(AUTO)
    for _ in range(6):
        *done, slow = rig.begin_round(*DEVICES)
        for each in done:
            rig.finish(each)
        number = rig.round.number
        with rig.database.transaction() as connection:  # others measure for it
            record(connection, JOB, number, slow.id, "a", dict.fromkeys(slow.seeds, 1))
        rig.settle()

    assert assigned(rig) == (15, 15)


@pytest.mark.parametrize(("dropout_rate", "factor"), [(0.0, 1.0), (0.2, 1.25), (0.9, 4.0), (1.0, 4.0)])
def test_the_factor_makes_up_for_the_drop_out_within_a_bound(dropout_rate, factor):
    assert RoundsSection(over_assign="auto").over_assigned(dropout_rate) == pytest.approx(factor)
    assert RoundsSection(over_assign=1.5).over_assigned(dropout_rate) == 1.5
