"""Figures in the documents' sentences and tables are those of ``benchmarks/results``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.byzantine.report import rows as byzantine_rows
from benchmarks.convergence.curves import load_all
from benchmarks.convergence.figures import Curves, final_accuracy
from benchmarks.coordinator.report import tables as coordinator_tables
from benchmarks.device.report import sections as device_sections
from benchmarks.device.shapes import SHAPES
from benchmarks.environment import REPOSITORY
from benchmarks.idle.__main__ import report as idle_report
from benchmarks.markdown import table

RESULTS = REPOSITORY / "benchmarks" / "results"


def result(path: str) -> Any:
    """Return the value at ``file/key/key``. A list's key is the ``name`` of an item, or ``*/field`` for the median."""
    file, *keys = path.split("/")
    value: Any = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    for index, key in enumerate(keys):
        if key == "*":
            (field,) = keys[index + 1 :]
            return median(each[field] for each in value)
        value = next(each for each in value if each["name"] == key) if isinstance(value, list) else value[key]
    return value


@dataclass(frozen=True)
class Documented:
    """A figure: its page, a pattern with one group around it, the value's path, its divisor and its format."""

    page: str
    pattern: str
    path: str
    divisor: float = 1.0
    form: str = "{:.0f}"

    def __str__(self) -> str:
        return f"{self.page}: {self.path}"


ENGINE, COORDINATOR, DEVICE = "docs/device-engine.md", "docs/coordinator.md", "docs/device.md"
SCHEDULING, SECURITY = "docs/scheduling.md", "docs/security.md"
STREAMED = r"\| a prediction, layers streamed \|"
HELD = r"\| a prediction, all layers in memory \|"
AGENT = r"\| an agent in a round, layers streamed \|"
LLAMA, PEERS = "llama/figures/rss_gb_llama7b_int4", "llama/figures/rss_gb_llama7b_int4/peer"
MINUTE = 1 / 60
FIGURES = [
    Documented(ENGINE, rf"{AGENT} ([\d.]+)", f"{LLAMA}/value", form="{:.2f}"),
    Documented(ENGINE, rf"{AGENT} [\d.]+ \| ([\d.]+)", "llama/figures/anon_gb_llama7b_streamed/value", form="{:.2f}"),
    Documented(ENGINE, rf"{AGENT} [\d.]+ \| [\d.]+ \| (\d+)", f"{LLAMA}/minutes_first_round", MINUTE),
    Documented(ENGINE, rf"{AGENT} .* (\d+) \|$", f"{LLAMA}/minutes_per_direction", MINUTE / 4),
    Documented(ENGINE, r"a direction takes ([\d.]+) s", f"{LLAMA}/minutes_per_direction", MINUTE, "{:.1f}"),
    Documented(ENGINE, rf"{STREAMED} ([\d.]+)", f"{PEERS}/streamed/peak_rss_bytes", 1e9, "{:.2f}"),
    Documented(ENGINE, rf"{STREAMED} [\d.]+ \| ([\d.]+)", f"{PEERS}/streamed/peak_anonymous_bytes", 1e9, "{:.2f}"),
    Documented(ENGINE, rf"{STREAMED} [\d.]+ \| [\d.]+ \| (\d+)", f"{PEERS}/streamed/first_seconds"),
    Documented(ENGINE, rf"{STREAMED} .* (\d+) \|$", f"{PEERS}/streamed/seconds"),
    Documented(ENGINE, rf"{HELD} ([\d.]+)", f"{PEERS}/held/peak_rss_bytes", 1e9, "{:.2f}"),
    Documented(ENGINE, rf"{HELD} [\d.]+ \| ([\d.]+)", f"{PEERS}/held/peak_anonymous_bytes", 1e9, "{:.2f}"),
    Documented(ENGINE, rf"{HELD} [\d.]+ \| [\d.]+ \| (\d+)", f"{PEERS}/held/first_seconds"),
    Documented(ENGINE, rf"{HELD} .* (\d+) \|$", f"{PEERS}/held/seconds"),
    Documented(ENGINE, r"half as much time again\*\*, (\d+) s", f"{PEERS}/streamed/seconds"),
    Documented(ENGINE, r"half as much time again\*\*, \d+ s for (\d+)", f"{PEERS}/held/seconds"),
    Documented(ENGINE, r"download of\s+([\d.]+) GB", f"{LLAMA}/artifact_bytes", 1e9, "{:.2f}"),
    Documented(ENGINE, r"the agent sent ([\d,]+) bytes", f"{LLAMA}/bytes_sent", form="{:,.0f}"),
    Documented(ENGINE, r"and received ([\d.]+) MB", f"{LLAMA}/bytes_received", 1e6, "{:.1f}"),
    Documented(ENGINE, r"The goals are ([\d.]+) GB", f"{LLAMA}/goal", form="{:.1f}"),
    Documented(ENGINE, r"GB, and ([\d.]+) GB anonymous", "llama/figures/anon_gb_llama7b_streamed/goal", form="{:.1f}"),
    Documented(ENGINE, r"assignment of (\d+) directions in the", "device/made/directions"),
    Documented(DEVICE, r"The goal is (\d+) MB a day", "idle/figures/idle_mb_per_day/goal"),
    Documented(DEVICE, r"MB a day and (\d+) MB resident", "idle/figures/idle_rss_mb/goal"),
    Documented(
        COORDINATOR, r"mutual TLS on every connection, ([\d,]+) devices", "coordinator/made/devices", form="{:,.0f}"
    ),
    Documented(COORDINATOR, r"\*Check-ins\*: (\d+) calls wait", "coordinator/made/in_flight"),
    Documented(COORDINATOR, r"in messages of (\d+)\s", "coordinator/made/scalars_per_message"),
    Documented(COORDINATOR, r"round\*: ([\d,]+) scalars", "coordinator/made/directions", form="{:,.0f}"),
    Documented(COORDINATOR, r"scalars at ([\d,]+) weights, from", "coordinator/made/weights", form="{:,.0f}"),
    Documented(COORDINATOR, r"ledger of ([\d,]+) rounds", "coordinator/made/ledger_rounds", form="{:,.0f}"),
    Documented(SECURITY, r"accuracy on (\d+) held-out articles", "byzantine/made/test_rows"),
    Documented(SECURITY, r"skewed labels \(Dirichlet, α = ([\d.]+)\): a mean", "byzantine/made/alpha", form="{}"),
    Documented(SCHEDULING, r"devices come at (\d+) a second", "pacing/scene/rate"),
    Documented(SCHEDULING, r"With room for ([\d,]+) answers", "pacing/scene/capacity", form="{:,.0f}"),
    Documented(SCHEDULING, r"comes after (ten) minutes", "pacing/figures/refused_until_after_outage/value", 60, "ten"),
]


@pytest.mark.parametrize("figure", FIGURES, ids=str)
def test_the_figure_is_the_result(figure: Documented) -> None:
    text = (REPOSITORY / figure.page).read_text(encoding="utf-8")
    found = re.findall(figure.pattern, text, re.MULTILINE)
    assert found == [figure.form.format(result(figure.path) / figure.divisor)]


def test_refusals_end_ten_minutes_after_the_outage() -> None:
    assert round(result("pacing/figures/refused_until_after_outage/value") / 60) == 10


def _device(results: Mapping[str, Any]) -> str:
    titles = {shape.name: shape.title for shape in SHAPES.values()}
    return "\n".join(device_sections(results["measurements"], titles, results["accuracies"]))


GENERATED: list[tuple[str, str, str, Callable[[Mapping[str, Any]], str]]] = [
    ("docs/device.md", "make bench-idle", "idle", lambda found: "\n".join(idle_report(found["measurements"]))),
    ("docs/device-engine.md", "make bench-device", "device", _device),
    (
        "docs/security.md",
        "make bench-byzantine",
        "byzantine",
        lambda found: "\n".join(table(*byzantine_rows(found["runs"]))),
    ),
    (
        "docs/coordinator.md",
        "make bench-coordinator",
        "coordinator",
        lambda found: "\n".join(coordinator_tables(found["measurements"])),
    ),
]
"""Page, command, file of results, and what makes its tables."""


@pytest.mark.parametrize(("page", "command", "file", "tables"), GENERATED, ids=[each[1] for each in GENERATED])
def test_the_tables_are_of_the_results(
    page: str, command: str, file: str, tables: Callable[[Mapping[str, Any]], str]
) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    begin, end = (f"<!-- results of {command}: {what} -->" for what in ("begin", "end"))
    block = text.partition(begin)[2].partition(end)[0]
    assert block.strip() == tables(result(file)).strip()


def test_no_block_of_results_is_empty() -> None:
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        blocks = re.findall(r"<!-- results of (.*?): begin -->(.*?)<!--", page.read_text(encoding="utf-8"), re.DOTALL)
        assert [command for command, text in blocks if not text.strip()] == [], page


def test_the_gap_on_yelp_sentences() -> None:
    text = (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
    peer = result("convergence/figures/gap_closed_yelp/peer")
    (gap,) = re.findall(r"and the gap is ([\d.]+) points", text)
    assert float(gap) == pytest.approx(100 * (peer["backprop_lora"] - peer["probe"]), abs=0.02)


def test_what_is_said_of_the_airline_tweets() -> None:
    """``default`` ends where the probe does, and LoRA by FedSGD higher."""
    curves = Curves(load_all(RESULTS / "convergence"))
    default, probe, lora = (
        final_accuracy(curves.of("twitter_airline", method, "user"))
        for method in ("default", "probe-ridge", "backprop-lora-fedsgd")
    )
    assert default is not None
    assert default == pytest.approx(probe, abs=0.01)
    assert lora is not None
    assert lora > default + 0.02


def test_the_path_of_a_figure() -> None:
    assert result("device/measurements/minilm/inference/*/peak_rss_bytes") == pytest.approx(2.1e8, rel=0.01)
    assert result("idle/figures/idle_rss_mb/unit") == "MB resident"


def test_the_page_of_fleet_sizes_is_of_the_results() -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    assert "\n".join(scaling.lines(scaling.Assumed())) in page, "make scaling"
