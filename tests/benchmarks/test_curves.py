"""What an accuracy cost, and which of two curves is kept."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers.synthetic_curves import curve

from benchmarks.convergence.curves import Curve, Final, Spent, keep_further, load_all
from benchmarks.convergence.progress import BEGUN, RESULT, SIMULATION, Clock, read


def test_the_first_point_at_the_target_counts_interpolated_from_the_one_before() -> None:
    # From 60 % at 100 to 90 % at 400: 80 % is two thirds of the way.
    rising = curve("default", [(0, 0.25), (100, 0.6), (400, 0.9)])
    spent = rising.until(0.8)
    assert spent.reached
    assert spent.value == pytest.approx(300)
    assert rising.until(0.6) == Spent(100, reached=True)


def test_a_later_fall_below_the_target_does_not_matter() -> None:
    collapsing = curve("mezo", [(0, 0.25), (100, 0.8), (200, 0.3), (300, 0.9)])
    assert collapsing.until(0.8) == Spent(100, reached=True)
    assert collapsing.best.example_passes == 300


def test_what_is_not_reached_is_a_lower_bound() -> None:
    assert curve("mezo", [(0, 0.25), (100, 0.6)]).until(0.8) == Spent(100, reached=False)


def test_what_it_has_from_the_start_costs_nothing() -> None:
    assert curve("default", [(0, 0.5), (100, 0.6)]).until(0.4) == Spent(0, reached=True)


def test_any_cost_is_read_in_the_same_way() -> None:
    rising = curve("default", [(0, 0.4), (100, 0.8)])
    assert rising.until(0.6, lambda point: point.bytes_up).value == pytest.approx(20)
    assert rising.bytes_per_device == 10


def test_a_curve_survives_its_file(tmp_path: Path) -> None:
    whole = curve("default", [(0, 0.25), (100, 0.8)], final=0.79)
    whole.save(tmp_path / f"{whole.name}.json")
    assert whole.name == "ag_news.default.iid.1"
    assert load_all(tmp_path) == [whole]


def test_of_one_recipe_the_curve_that_got_further_is_kept(tmp_path: Path) -> None:
    short, long = (curve("fwdllm-paper", [(0, 0.25), (passes, 0.5)], rounds=9) for passes in (100, 200))
    complete = curve("fwdllm-paper", [(0, 0.25), (150, 0.5)], final=0.5)
    assert keep_further(short, tmp_path)
    assert keep_further(long, tmp_path)
    assert not keep_further(short, tmp_path)
    assert keep_further(complete, tmp_path)
    assert not keep_further(long, tmp_path)
    assert keep_further(replace(short, made={"recipe": "new"}), tmp_path)
    assert [Curve.load(file).last.example_passes for file in tmp_path.glob("*.json")] == [100]


def test_an_unfinished_run_is_what_the_simulator_has_published(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    whole = curve("default", [(0, 0.25), (100, 0.8), (200, 0.9)], final=0.9)
    begun = replace(whole, points=(), final=None, complete=False)
    begun.save(tmp_path / BEGUN)
    assert read(tmp_path) == begun
    (tmp_path / SIMULATION).mkdir()
    points = [{**asdict(point), "something": "new"} for point in whole.points[:2]]
    for point in points:
        del point["cpu_seconds"]
    (tmp_path / SIMULATION / "curve.json").write_text(json.dumps(points))
    clock = Clock(tmp_path)
    clock.note(1)
    found = read(tmp_path)
    assert found is not None
    assert [point.example_passes for point in found.points] == [0, 100]
    assert [point.cpu_seconds for point in found.points] == [None, clock.at["1"]]
    assert not found.complete
    whole.save(tmp_path / RESULT)
    assert read(tmp_path) == whole


def test_the_clock_goes_on_in_the_next_piece(tmp_path: Path) -> None:
    first = Clock(tmp_path)
    first.at["5"] = 7.0
    first.save()
    second = Clock(tmp_path)
    second.note(6)
    assert second.at["5"] == 7
    assert second.at["6"] >= 0
    assert Clock(tmp_path).at == second.at


def test_the_final_metrics_of_four_rows_by_hand() -> None:
    # Two of the first class, of which one is right, and two of the second, both right.
    final = Final.of(("a", "b"), [0, 0, 1, 1], [[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]])
    assert (final.accuracy, final.rows) == (0.75, 4)
    assert final.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert final.matthews_correlation == pytest.approx(1 / 3**0.5)
    assert final.loss == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
