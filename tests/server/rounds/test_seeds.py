import pytest
from helpers.rig import ScriptedDevice, run_to_end

SECTIONS = {"blocks.peft": {"max_directions": 15, "variance_threshold": 1e-9}}
SAMPLING = {"blocks.peft.sampling": {"keep": 0.2}, "blocks.head.sampling": {"cosine": "absolute"}}


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["plain", "sampled"])
def test_no_seed_is_used_twice_in_a_run_with_abandoned_and_extended_rounds(make_rig, sampling):
    rig = make_rig({**SECTIONS, **sampling}, count=3, deadline_s=20, over_assign=1.3)
    for _ in range(2):
        rig.begin_round("a", "b", "c")
        rig.later(20)  # nobody reports anything: abandoned
    run_to_end(rig, [ScriptedDevice(name) for name in ("a", "b", "c")])
    asked = [seed for number in range(1, 6) for work in rig.work_of_round(number) for seed in work.seeds]
    used = [int(seed) for entry in rig.ledger() for update in entry.updates for seed in update.seeds]

    assert rig.phases() == ["abandoned"] * 2 + ["committed"] * 3
    assert len(set(asked)) == len(asked)
    assert len(set(used)) == len(used)
    assert set(used) <= set(asked)


def test_sampled_seeds_are_shared_out_as_ranges_and_all_are_measured(make_rig):
    """Of the second round, whose seeds have gaps: there is a gradient to sample by."""
    rig = make_rig(SAMPLING, count=2)
    for work in rig.begin_round("a", "b", "c"):
        rig.finish(work)
    rig.settle()
    work = rig.begin_round("a", "b", "c")
    plans = {plan.block: plan for plan in rig.round.plan}
    spans = [(task.block, span.first, span.count) for each in work for task in each.tasks for span in task.seeds]

    for block, plan in plans.items():
        assert len(plan.ranges) > 1
        asked = [seed for name, first, count in spans for seed in range(first, first + count) if name == block]
        assert sorted(asked) == plan.seeds
    for each in work:
        rig.finish(each)
    rig.settle()
    assert {update.block: update.seeds.tolist() for update in rig.ledger()[1].updates} == {
        block: plan.seeds for block, plan in plans.items()
    }


@pytest.mark.parametrize(("difference", "central"), [("one-sided", False), ("central", True)])
def test_every_task_says_which_difference_is_asked_for(make_rig, difference, central):
    work = make_rig({"perturbation": {"difference": difference}}).begin_round("a", "b", "c")

    assert {task.central for each in work for task in each.tasks} == {central}
