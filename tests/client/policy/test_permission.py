"""Conditions, choices and the length of a session together."""

from dataclasses import replace

import pytest

from fwdllm.v1 import device_pb2
from fwdllm.v1.conditions_pb2 import HOLD_PAUSED, HOLD_UNPLUGGED, THERMAL_STATE_NONE
from fwdllm_client.conditions import Conditions, Gate, Hold, Rules, Thermal
from fwdllm_client.policy.choices import Choices, ChoicesFile
from fwdllm_client.policy.permission import Permission, WorkCancelledError
from fwdllm_common.job_choice import JobChoice

WELL = Conditions(True, 80.0, False, Thermal.NONE)


class Owned:
    """A device with a clock to set."""

    def __init__(self, folder, rules=Rules()):  # noqa: B008 - frozen
        self.now = 0.0
        self.conditions = WELL
        self.choices = ChoicesFile(folder / "choices.json")
        self.permission = Permission(Gate(self, rules, lambda: self.now), rules, self.choices, lambda: self.now)

    def read(self):
        return self.conditions

    def at(self, now):
        self.now = now
        return self.permission.holds()


@pytest.fixture
def owned(tmp_path):
    return Owned(tmp_path)


def test_a_pause_holds_at_once_and_its_end_needs_no_time(owned):
    assert owned.at(0) == ()
    owned.choices.write(Choices(paused=True))
    assert owned.at(0.1) == (Hold.PAUSED,)
    owned.choices.write(Choices())
    assert owned.at(0.2) == ()


def test_a_job_that_is_not_allowed_is_refused_alone(owned):
    owned.choices.write(Choices(jobs=JobChoice().deny("news")))

    assert owned.at(0) == ()
    assert owned.permission.granted("weather")
    with pytest.raises(WorkCancelledError):
        owned.permission.check("news")


def test_a_session_ends_and_is_followed_by_a_rest(owned):
    with owned.permission.session():
        assert owned.at(584.9) == ()
        assert owned.at(585) == (Hold.RESTING,)
    assert owned.at(704) == (Hold.RESTING,)
    assert owned.at(705) == ()
    with owned.permission.session():
        assert owned.at(705 + 584) == ()
        assert owned.at(705 + 585) == (Hold.RESTING,)


def test_work_with_short_waits_between_is_one_session(owned):
    for start in range(0, 500, 100):
        owned.at(start)
        with owned.permission.session():
            assert owned.at(start + 90) == ()
    owned.at(500)
    with owned.permission.session():
        assert owned.at(585) == (Hold.RESTING,)


def test_a_long_wait_is_a_rest(owned):
    with owned.permission.session():
        owned.at(500)
    owned.at(620)
    with owned.permission.session():
        assert owned.at(620 + 584) == ()


def test_waiting_is_no_work(owned):
    with owned.permission.session():
        owned.at(10)
    assert owned.at(100_000) == ()


def test_an_owner_may_have_no_limit(tmp_path):
    owned = Owned(tmp_path, Rules(session_s=float("inf")))
    with owned.permission.session():
        assert owned.at(1e9) == ()


def test_on_mains_work_needs_no_rest(tmp_path):
    owned = Owned(tmp_path)
    owned.conditions = Conditions(True, None, False, None, mains=True)
    with owned.permission.session():
        assert owned.at(1e6) == ()


def test_a_battery_whose_level_is_not_known_is_no_mains(tmp_path):
    owned = Owned(tmp_path)
    owned.conditions = Conditions(True, None, False, None)
    with owned.permission.session():
        assert owned.at(584) == ()
        assert owned.at(586) == (Hold.RESTING,)


def test_the_owner_of_a_box_on_mains_may_ask_for_rests(tmp_path):
    owned = Owned(tmp_path, Rules(session_s=60.0))
    owned.conditions = Conditions(True, None, False, None, mains=True)
    with owned.permission.session():
        owned.at(0)
        assert owned.at(61) == (Hold.RESTING,)


def test_a_check_in_tells_everything(owned):
    owned.conditions = replace(WELL, charging=False)
    owned.choices.write(Choices(paused=True, jobs=JobChoice(only=True).allow("news")))
    request = device_pb2.CheckInRequest()

    assert owned.permission.fill_in(request) == (Hold.PAUSED, Hold.UNPLUGGED)
    said = request.conditions
    assert (said.charging, said.battery_percent, said.metered, said.thermal) == (False, 80.0, False, THERMAL_STATE_NONE)
    assert list(said.holds) == [HOLD_PAUSED, HOLD_UNPLUGGED]
    assert (request.jobs.only, list(request.jobs.names)) == (True, ["news"])


def test_what_is_not_known_is_not_told(owned):
    owned.conditions = Conditions()
    request = device_pb2.CheckInRequest()
    owned.permission.fill_in(request)

    for field in ("charging", "battery_percent", "metered"):
        assert not request.conditions.HasField(field)


def test_the_log_says_why_once(owned, capfd):
    owned.conditions = replace(WELL, charging=False)
    owned.at(0)
    owned.at(20)
    owned.conditions = WELL
    owned.at(40)
    owned.at(200)
    said = capfd.readouterr()
    text = said.out + said.err

    assert text.count("not working now") == 2
    assert text.index("not charging") < text.index("not for long enough") < text.index("free to work again")
