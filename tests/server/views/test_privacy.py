"""What is said of a device's privacy."""

import pytest
from helpers.tiny_job import job_spec

from fwdllm_server.views.privacy import privacy_budget, what_is_inferred
from fwdllm_server.views.privacy_words import budget_words

AUTO = {"blocks.head": {"directions": "auto"}, "blocks.peft": {"directions": "auto"}}
BUDGET = {"epsilon": 4.0, "delta": 1e-5, "clip": 0.5, "rounds_per_device": 20}


def section(**privacy):
    rounds = {"min_devices": 8} if privacy.get("secure_aggregation") else {}
    return job_spec({**AUTO, "rounds": rounds, "privacy": privacy}).privacy


def test_the_budget_is_spent_release_by_release_and_never_exceeded():
    spent = [privacy_budget(section(**BUDGET), releases).epsilon_spent for releases in (0, 1, 10, 20)]

    assert spent == sorted(spent)
    assert spent[0] == 0
    assert 3.99 < spent[-1] <= 4.0


def test_a_job_without_noise_has_no_budget():
    assert privacy_budget(section(), 0) is None


def test_it_is_said_in_words():
    words = budget_words(privacy_budget(section(**BUDGET), 20))
    assert words.startswith("epsilon = 4 of 4 at delta = 1e-05, after 20 of 20 rounds of a device; clip 0.5, noise ")


@pytest.mark.parametrize(
    ("privacy", "says"),
    [
        ({}, "possibly texts"),
        (BUDGET, "clipped sums with noise"),
        ({"secure_aggregation": True}, "summed over 8 devices or more"),
        ({**BUDGET, "secure_aggregation": True}, "noise that devices have added"),
    ],
)
def test_what_the_coordinator_can_infer_is_one_sentence(privacy, says):
    found = section(**privacy)
    assert says in what_is_inferred(found, privacy_budget(found, 0))
