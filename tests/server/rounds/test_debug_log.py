"""The lines that ``--verbose`` adds to the log of a round."""

import json

import pytest
import structlog

from fwdllm_common.logging import configure_logging


@pytest.fixture(autouse=True)
def default_logging():
    yield
    structlog.reset_defaults()


def logged(capfd):
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_phase_changes_and_the_division_of_directions_are_logged(make_rig, capfd):
    rig = make_rig(min_devices=2)
    configure_logging(verbose=True)
    work = rig.begin_round("a", "b")
    lines = logged(capfd)

    phases = [(line["was"], line["phase"]) for line in lines if line["event"] == "phase changed"]
    assert phases[-2:] == [("selecting", "assigned"), ("assigned", "collecting")]
    [divided] = [line for line in lines if line["event"] == "directions divided"]
    assert (divided["level"], divided["job"], divided["round"]) == ("debug", rig.job.name, 1)
    assert divided["directions"] == {each.device_id: len(each.seeds) for each in work}


def test_work_that_is_reassigned_is_logged(make_rig, capfd):
    rig = make_rig(min_devices=2, max_devices=2, assignment_s=60)
    rig.begin_round("a", "b")
    configure_logging(verbose=True)
    rig.check_in("c")
    rig.later(61)

    [reassigned] = [line for line in logged(capfd) if line["event"] == "work reassigned"]
    assert set(reassigned["directions"]) == {"c"}


def test_without_verbose_there_are_no_debug_lines(make_rig, capfd):
    rig = make_rig(min_devices=2)
    configure_logging()
    rig.begin_round("a", "b")

    assert {line["level"] for line in logged(capfd)} == {"info"}
