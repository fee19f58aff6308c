"""Tiny models from end to end."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
from helpers.tiny_text import LABELS
from server.profiler.conftest import BITFIT, EPOCHS, HEAD, ROWS, SIDE

from fwdllm_server.profiler.report import CandidateReport, Report


@pytest.fixture
def by_name(report: Report) -> dict[str, CandidateReport]:
    return {candidate.name: candidate for candidate in report.candidates}


def test_all_learn_and_start_from_a_head_of_zeros(by_name: dict[str, CandidateReport]) -> None:
    for candidate in by_name.values():
        first, *later = candidate.epochs
        assert (len(later), first.passes) == (EPOCHS, 0)
        assert first.loss == pytest.approx(log(len(LABELS)), rel=1e-3)
        assert candidate.loss == min(epoch.loss for epoch in candidate.epochs) < first.loss
    assert by_name[SIDE].score > by_name[SIDE].epochs[0].score


def test_passes_are_of_the_law(by_name: dict[str, CandidateReport]) -> None:
    head = by_name[HEAD]
    assert list(head.blocks) == ["head"]
    assert head.gradient_passes == pytest.approx(head.blocks["head"].coordinates * head.blocks["head"].direction)
    # Each row once through all, then its visits through the head alone.
    visit = head.blocks["head"].direction + head.gradient_passes
    assert [epoch.passes for epoch in head.epochs[1:]] == pytest.approx(
        [ROWS * (1 + epoch * visit) for epoch in range(1, EPOCHS + 1)]
    )
    assert list(by_name[SIDE].blocks) == ["pooling", "readout", "head"]
    assert by_name[BITFIT].blocks["peft"].direction == pytest.approx(1 / 3, rel=0.1)
    assert by_name[HEAD].gradient_passes < by_name[SIDE].gradient_passes


def test_the_head_gains_nothing_over_itself(by_name: dict[str, CandidateReport]) -> None:
    gain = by_name[HEAD].gain
    assert gain is not None
    assert (gain.mean, gain.error) == (0, 0)
    assert by_name[BITFIT].gain is not None


def test_every_epoch_is_told_of(ticks: list[None], report: Report) -> None:
    assert len(ticks) == 3 * (EPOCHS + 1)


def test_the_document_is_what_it_says(report: Report) -> None:
    text = report.model_dump_json(indent=2)
    assert Report.model_validate_json(text) == report
    document = json.loads(text)
    assert document["format"] == 2
    assert set(document) == {"format", "settings", "environment", "candidates", "left_out"}
    assert {"fwdllm", "onnxruntime", "torch", "cores", "platform"} <= set(document["environment"])
    assert (document["settings"]["seed"], document["settings"]["metric"]) == (5, "accuracy")
    assert (document["settings"]["rows"], document["settings"]["validation_rows"]) == (ROWS, 120 - ROWS)


def test_every_key_of_a_candidate_is_documented(report: Report) -> None:
    page = (Path(__file__).parents[3] / "docs" / "profiler.md").read_text()
    assert [key for key in report.candidates[0].model_dump() if f"`{key}`" not in page] == []
