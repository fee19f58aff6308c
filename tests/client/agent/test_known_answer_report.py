"""The known-answer test comes before the first scalars on a bundle, and the coordinator decides what follows."""

from __future__ import annotations

import pytest


@pytest.fixture
def handed_out(coordinator, job):
    """The same assignment at every check-in."""
    coordinator.on_check_in = lambda request: job.answer(job.assignment())


def test_a_device_that_passes_goes_on_and_is_not_tested_again(device, coordinator, handed_out, new_stop):
    device.compute.known_answer_ratio = 250.0
    device.run(new_stop(last=2))

    assert [(test.assignment_id, test.signal_to_noise) for test in coordinator.known_answer_reports] == [("a1", 250.0)]
    assert len(device.compute.computed) == 10


def test_a_device_that_is_not_wanted_measures_nothing_and_says_so_again(device, coordinator, handed_out, new_stop):
    device.compute.known_answer_ratio = 0.5
    coordinator.usable = False
    stop = new_stop(last=2)
    device.run(stop)

    assert [test.signal_to_noise for test in coordinator.known_answer_reports] == [0.5, 0.5]
    assert (device.compute.computed, coordinator.reports) == ([], [])
    assert stop.waits[0] == pytest.approx(0.011), "it comes back when the answer says"


def test_a_bundle_without_a_known_answer_test_needs_no_test(device, coordinator, handed_out, new_stop):
    device.run(new_stop(last=1))

    assert coordinator.known_answer_reports == []
    assert len(device.compute.computed) == 10
