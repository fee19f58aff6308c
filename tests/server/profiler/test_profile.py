"""A tiny encoder from end to end."""

from __future__ import annotations

import json

import pytest
from server.profiler.conftest import BITFIT, KEY, QUERY

from fwdllm_server.profiler.report import Report


@pytest.fixture
def by_name(report: Report):
    return {candidate.name: candidate for candidate in report.candidates}


@pytest.mark.parametrize("name", [BITFIT, QUERY])
def test_cosines_follow_the_law_within_their_standard_error(by_name, name):
    compared = [each for each in by_name[name].similarities if each.directions >= 16 and each.groups > 1]
    assert len(compared) == 2
    for each in compared:
        # The law's own deviation: that of four groups is no reliable one.
        std = each.law * (1 - each.law**2) / (2 * each.directions) ** 0.5
        assert abs(each.cosine - each.law) < 3 * std / each.groups**0.5
        assert 0.3 < each.std / std < 2.5


def test_the_better_candidate_wins_although_its_gradient_is_seen_less_well(report, by_name):
    assert [candidate.name for candidate in report.candidates] == [BITFIT, QUERY, KEY]
    assert [candidate.rank for candidate in report.candidates] == [1, 2, 3]
    best, worse = by_name[BITFIT], by_name[QUERY]
    assert best.similarities[-1].cosine < worse.similarities[-1].cosine
    assert best.at_budget.drop.expected > 5 * worse.at_budget.drop.expected
    assert best.at_budget.drop.per_pass > 5 * worse.at_budget.drop.per_pass


def test_what_cannot_be_learnt_promises_nothing(by_name):
    assert by_name[KEY].at_budget.drop is None
    assert by_name[KEY].curvature is None


@pytest.mark.parametrize("name", [BITFIT, QUERY])
def test_steps_bring_what_they_should(by_name, name):
    assert 0.5 < by_name[name].check < 1.5


def test_all_start_at_the_same_loss_with_a_head_that_knows_something(report):
    losses = [candidate.loss for candidate in report.candidates]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
    assert losses[0] < 0.5  # at θ₀ of a job it is log 3


def test_cost_and_budget(report, by_name, ticks):
    assert sum(ticks) == 3 * 256
    # 16 rows, all of three layers or two; four assignments have a pass for the unmoved θ each.
    assert by_name[QUERY].passes_per_direction == pytest.approx(16 * (1 + 4 / 256), rel=0.05)
    assert 8 < by_name[BITFIT].passes_per_direction < 13
    cheapest = min(candidate.seconds_per_direction for candidate in report.candidates)
    assert report.budget_seconds == pytest.approx(256 * cheapest)
    for candidate in report.candidates:
        budget = candidate.at_budget
        assert budget.directions == pytest.approx(report.budget_seconds / candidate.seconds_per_direction, abs=1)
        if budget.drop is not None:
            seconds = budget.directions * candidate.seconds_per_direction
            assert budget.drop.per_second == pytest.approx(budget.drop.expected / seconds)


def test_the_document_is_what_it_says(report):
    text = report.model_dump_json(indent=2)
    assert Report.model_validate_json(text) == report
    document = json.loads(text)
    assert document["format"] == 1
    assert set(document) == {"format", "settings", "environment", "budget_seconds", "candidates", "left_out"}
    assert {"fwdllm", "onnxruntime", "torch", "cores", "platform"} <= set(document["environment"])
    assert document["settings"]["seed"] == 5
    assert set(document["candidates"][0]) == {
        "rank",
        "name",
        "peft",
        "coordinates",
        "epsilon",
        "loss",
        "gradient_norm",
        "curvature",
        "check",
        "seconds_per_direction",
        "passes_per_direction",
        "bundle_bytes",
        "similarities",
        "at_budget",
    }
    assert set(document["candidates"][0]["at_budget"]) == {"directions", "law", "drop", "bytes_up", "bytes_down"}
