"""When a simulated device sends what."""

from __future__ import annotations

import json

import pytest

from fwdllm_common.counts import Counts
from fwdllm_common.protocol import MAX_SCALARS_PER_REPORT
from fwdllm_server.simulation.work import Stretch, Work


def work(*stretches: tuple[float, float, int], **changes) -> Work:
    """At two passes a second, begun at 100 s."""
    values = {"passes_per_s": 2.0, "closes_s": 1e9, "vanishes_s": None, "evaluation": None, **changes}
    return Work("job1-1-1", "sim-1", 100.0, stretches=[Stretch(*each) for each in stretches], **values)


def messages(found: Work):
    sent = []
    while (message := found.next_message) is not None:
        sent.append(message)
        found.next_index = message.end
    return sent


def test_a_slow_device_sends_each_scalar_when_it_is_there():
    """Three passes before the first, two for each: 2.5 s, 3.5 s, 4.5 s."""
    found = work((3, 2, 3))

    assert [(each.first, each.end, each.sent_at) for each in messages(found)] == [(0, 1, 2.5), (1, 2, 3.5), (2, 3, 4.5)]
    assert found.finished


def test_a_fast_device_sends_what_half_a_second_brings():
    """0.1 s each, the second task with 1 s before its first."""
    found = messages(work((0, 0.2, 8), (2, 0.2, 2)))

    assert [(each.first, each.end) for each in found] == [(0, 5), (5, 9), (9, 10)]
    assert [each.sent_at for each in found] == pytest.approx([0.5, 1.9, 2.0])
    assert sum(each.seconds for each in found) == pytest.approx(2.0)
    assert sum(each.example_passes for each in found) == pytest.approx(4.0)


def test_a_message_has_no_more_scalars_than_the_wire_allows():
    found = messages(work((0, 1e-9, MAX_SCALARS_PER_REPORT + 1)))

    assert [each.end - each.first for each in found] == [MAX_SCALARS_PER_REPORT, 1]


def test_nothing_is_begun_after_the_round_closes():
    """Scalars at 1 s, 2 s, 3 s …: the third is under way at 2.5 s and still sent."""
    found = work((0, 2, 9), closes_s=2.5)

    assert [each.sent_at for each in messages(found)] == [1, 2, 3]
    assert (found.finished, found.sendable) == (True, 3)
    assert work((0, 2, 9), closes_s=0.0).finished


def test_nothing_comes_from_a_device_that_has_vanished():
    found = work((0, 2, 9), vanishes_s=2.5)

    assert [each.sent_at for each in messages(found)] == [1, 2]
    assert (found.finished, found.sendable) == (False, 2)


def test_work_can_be_put_away():
    found = work((1, 2, 3), vanishes_s=0.5, evaluation=Counts(3, 4))
    found.next_index = 1

    assert Work.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_packed_scalars_share_no_message_with_others_nor_with_another_task():
    found = messages(work((0, 1e-9, 2), (0, 1e-9, 9000, True), (0, 1e-9, 7, True)))

    assert [(each.first, each.end, each.packed) for each in found] == [
        (0, 2, False),
        (2, 9002, True),
        (9002, 9009, True),
    ]
