"""Tables, pictures and files from curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.synthetic_curves import curve

from benchmarks.convergence.curves import Final
from benchmarks.convergence.figures import Curves
from benchmarks.convergence.report import Places, write_report
from benchmarks.convergence.runs import Settings, all_runs
from benchmarks.convergence.tables import ablation_table, non_iid_table, sections, task_table
from benchmarks.convergence.tasks import TASKS, files_of

FOUND = [
    curve("fwdllm-paper", [(0, 0.25), (10_000, 0.5), (30_000, 0.82)], rounds=3000),
    curve("paper-with-adam", [(0, 0.25), (900, 0.85)], final=0.84),
    curve("default", [(0, 0.25), (100, 0.6), (200, 0.9)], seed=1, final=0.88),
    curve("default", [(0, 0.25), (200, 0.6), (400, 0.9)], seed=2, final=0.90),
    curve("default", [(0, 0.25), (600, 0.85)], population="dirichlet-0.1", final=0.87),
    curve("probe-ridge", [(4490, 0.885)], final=0.884),
]


def row(table: list[str], *cells: str) -> list[str]:
    """The cells of the one row that begins with these."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    (found,) = [row for row in rows if row[: len(cells)] == list(cells)]
    return found


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places.below(tmp_path)
    places.curves.mkdir()
    for found in FOUND:
        found.save(places.curves / f"{found.name}.json")
    return places


def test_a_row_of_the_task_table() -> None:
    table = task_table(TASKS["ag_news"], Curves(FOUND), lambda _: False)
    assert row(table, "method")[:5] == ["method", "seeds", "passes to 80.0%", "passes to 85.0%", "passes to 87.0%"]
    default = row(table, "`default`")
    assert default[1:5] == ["2", "250 (167–333)", "275 (183–367)", "285 (190–380)"]
    assert default[5:] == ["89.0 % (88.0–90.0)", "–", "–", "90.0 %", "2", "0", "30", "complete"]
    paper = row(table, "`fwdllm-paper`")
    assert paper[2:6] == ["28,750", "> 30,000", "> 30,000", "–"]
    assert paper[-1] == "incomplete: stopped at round 2 of 3000, 30,000 passes"


def test_macro_f1_and_correlation_are_means_over_the_seeds() -> None:
    finals = [Final(0.9, 0.3, 100, macro_f1=0.8, matthews_correlation=0.7), Final(0.9, 0.3, 100, 0.7, 0.6)]
    found = [
        replace(curve("default", [(0, 0.9)], seed=seed, final=0.9), final=each) for seed, each in enumerate(finals)
    ]
    assert row(task_table(TASKS["ag_news"], Curves(found), lambda _: False), "`default`")[6:8] == ["0.750", "0.650"]


def test_the_highest_accuracy_that_all_reach_is_a_column() -> None:
    race = [
        *FOUND,
        curve("mezo", [(0, 0.25), (50, 0.7316)], rounds=9),
        curve("fwdllm-paper-tuned", [(0, 0.3), (9, 0.9)]),
    ]
    header = row(task_table(TASKS["ag_news"], Curves(race), lambda _: False), "method")
    assert header[5] == "passes to 73.1%"


def test_a_task_without_devices_alike_is_in_the_table_of_skewed_devices_alone() -> None:
    tweets = curve("default", [(0, 0.25), (600, 0.85)], task="twitter_airline", population="user", final=0.8)
    lines = list(sections(Curves([*FOUND, tweets]), [], lambda _: False, {}))
    assert f"### {TASKS['twitter_airline'].title}" not in lines
    assert row(lines, TASKS["twitter_airline"].title, "`default`", "70%", "user")
    assert "No curve yet." not in lines


def test_the_slow_down_of_a_skewed_population() -> None:
    table = non_iid_table(Curves(FOUND), lambda _: False)
    assert row(table, "AG News", "`default`", "85%", "dirichlet-0.1")[4:6] == ["600", "2.18"]
    assert row(table, "AG News", "`default`", "85%", "iid")[5] == "1"


def test_the_ablation_table_begins_with_the_paper_and_ends_with_all_together() -> None:
    table = ablation_table(Curves(FOUND), lambda _: False)
    first = [line.split("|")[1].strip() for line in table[2:]]
    assert first == ["`fwdllm-paper`", "`paper-with-adam`", "`default`"]
    assert row(table, "`paper-with-adam`")[1:] == ["1", "900", "90", "0.01", "84.0 %", "85.0 %", "complete"]


def test_the_report_writes_tables_figures_and_a_picture(places: Places) -> None:
    places.document.write_text(
        "# Mine\n<!-- results of make bench-convergence: begin -->\nformer tables\n"
        "<!-- results of make bench-convergence: end -->\nafter\n"
    )
    text = write_report(Settings(places.curves), places)
    document = places.document.read_text()
    assert text in document
    assert document.startswith("# Mine\n")
    assert document.endswith("after\n")
    assert "former tables" not in document
    assert write_report(Settings(places.curves), places) == text
    assert places.document.read_text() == document
    written = json.loads(places.figures.read_text())
    assert written.keys() == {"environment", "figures"}
    (picture,) = places.images.iterdir()
    assert picture.name == "convergence-ag-news.png"
    assert "](images/convergence-ag-news.png)" in document
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_document_without_markers_is_left_alone(places: Places) -> None:
    places.document.write_text("# Mine\n")
    with pytest.raises(ValueError, match="has lost the line"):
        write_report(Settings(places.curves), places)
    assert places.document.read_text() == "# Mine\n"


def test_a_curve_of_another_recipe_is_said_to_be_old(places: Places) -> None:
    settings = Settings(places.curves)
    (run,) = all_runs(["ag_news/default/iid/1"], quick=False)
    current = replace(FOUND[2], made={"recipe": settings.recipe(run, files_of(run.task, Path()))})
    current.save(places.curves / f"{current.name}.json")
    lines = write_report(settings, places).splitlines()
    assert "an older recipe" in next(line for line in lines if line.startswith("| `probe-ridge`"))
    assert "an older recipe" in next(line for line in lines if line.startswith("| `default`"))  # of its second seed
    (places.curves / "ag_news.default.iid.2.json").unlink()
    lines = write_report(settings, places).splitlines()
    assert "an older recipe" not in next(line for line in lines if line.startswith("| `default`"))
