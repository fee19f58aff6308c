"""docs/metrics.md is what the code has, in names that Prometheus wants."""

from __future__ import annotations

import re
from pathlib import Path

from fwdllm_server.metrics.live import LIVE
from fwdllm_server.metrics.reference import reference
from fwdllm_server.metrics.state import DEFINITIONS

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "write it again with 'make metrics'"


def test_every_metric_is_on_it_once() -> None:
    names = re.findall(r"^\| `(\w+)`", reference(), re.MULTILINE)
    assert len(names) == len(set(names)) == len(DEFINITIONS) + len(LIVE)


def test_names_follow_the_conventions() -> None:
    for each in DEFINITIONS:
        assert each.name.startswith("fwdllm_")
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
