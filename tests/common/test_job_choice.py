from hypothesis import given
from hypothesis import strategies as st

from fwdllm_common.job_choice import JobChoice

NAMES = st.sampled_from(["a", "b", "c", "d"])
CHOICES = st.builds(JobChoice, st.booleans(), st.frozensets(NAMES))


def test_all_jobs_unless_said_otherwise():
    assert JobChoice().allows("any")
    assert not JobChoice(only=True).allows("any")


@given(CHOICES, NAMES, NAMES)
def test_allowing_and_denying_are_about_one_job(choice, name, other):
    assert choice.allow(name).allows(name)
    assert not choice.deny(name).allows(name)
    if other != name:
        assert choice.allow(name).allows(other) == choice.deny(name).allows(other) == choice.allows(other)


@given(CHOICES)
def test_the_wire_keeps_it(choice):
    assert JobChoice.from_message(choice.to_message()) == choice
