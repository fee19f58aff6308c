"""The benchmark of privacy: it measures whole aggregations of ours, and its figures are those of the results."""

from __future__ import annotations

import json

import pytest

from benchmarks.privacy import secagg
from benchmarks.privacy.accuracy import EPSILONS, RECIPES, all_runs
from benchmarks.privacy.report import accuracy_rows, cost_rows, figures
from benchmarks.reporting import results_file


def test_an_aggregation_is_run_and_counted():
    cost = secagg.ours(8, 64)

    assert cost["up"] > 8 * 64  # the masked vector alone
    assert cost["down"] > 7 * 64  # two keys of each peer
    assert cost["cpu_s"] > 0
    assert secagg.plain(64)["up"] < 8 * 64


def test_figures_are_of_the_runs_that_there_are():
    (run, *_) = all_runs(1)
    cost = {"up": 10.0, "down": 2.0, "cpu_s": 0.5, "server_s": 1.0}
    costs = {"100": {"ours": cost, "flower": {**cost, "up": 22.0, "cpu_s": 4.0}, "repetitions": 3}}
    results = {run.name: {"accuracy": 0.8123, "membership_auc": 0.5}}
    found = {each["name"]: each["value"] for each in figures(results, costs, None)}

    assert found["accuracy_at_epsilon_inf_ag_news_100"] == 0.8123
    assert (found["secagg_bytes_ratio_flower"], found["secagg_cpu_ratio_flower"]) == (2.0, 8.0)
    assert len({len(row) for row in accuracy_rows(results, ["ag_news"], [100])}) == 1
    assert len({len(row) for row in cost_rows(costs, cost)}) == 1


def test_every_cell_is_run_once():
    names = [run.name for run in all_runs(2)]

    assert len(set(names)) == len(names) == 2 * len(EPSILONS) * len(RECIPES) * 2


def test_the_results_that_are_kept_have_their_figures():
    kept = json.loads(results_file("privacy").read_text(encoding="utf-8"))
    again = {each["name"]: each for each in figures(kept["runs"], kept["costs"], None)}
    for each in kept["figures"]:
        if each["value"] is not None:
            assert again[each["name"]]["value"] == pytest.approx(each["value"])
