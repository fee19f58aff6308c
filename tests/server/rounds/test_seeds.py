from helpers.rig import ScriptedDevice, run_to_end

SECTIONS = {"blocks.peft": {"max_directions": 15, "variance_threshold": 1e-9}}


def test_no_seed_is_used_twice_in_a_run_with_abandoned_and_extended_rounds(make_rig):
    rig = make_rig(SECTIONS, count=3, accept_s=10, over_assign=1.3)
    for _ in range(2):
        rig.check_in("a", "b", "c")
        rig.settle()
        rig.later(10)  # nobody fetches anything: abandoned
    run_to_end(rig, [ScriptedDevice(name) for name in ("a", "b", "c")])
    asked = [seed for number in range(1, 6) for work in rig.work_of_round(number) for seed in work.seeds]
    used = [int(seed) for entry in rig.ledger() for update in entry.updates for seed in update.seeds]

    assert rig.phases() == ["abandoned"] * 2 + ["committed"] * 3
    assert len(set(asked)) == len(asked)
    assert len(set(used)) == len(used)
    assert set(used) <= set(asked)
