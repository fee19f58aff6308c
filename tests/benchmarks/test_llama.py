"""``python -m benchmarks.device.llama`` on a tiny shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.device.llama import KINDS, ROUND, TINY, export_template, figures, fill_layers, measured, report
from benchmarks.device.llama_round import run_rounds
from benchmarks.device.workplace import Workplace

MEASURED = {"peak_rss_bytes": 2e9, "peak_anonymous_bytes": 1e9, "first_seconds": 100.0, "seconds": 60.0}
OF_A_ROUND = {"seconds_per_direction": 30.0, "bytes_sent": 1000, "bytes_received": 2000, "artifact_bytes": 4e9}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("llama")
    export_template(TINY, folder / "bundle")
    fill_layers(TINY, folder / "bundle")
    return Workplace(TINY.name, folder / "bundle", folder / "cache", 1, TINY.vocabulary, directions=2, batch=2)


def test_every_frozen_layer_is_a_stage_with_weights_of_its_own(place: Workplace) -> None:
    stages = place.manifest.stages
    assert [stage.block for stage in stages] == [None] * (1 + TINY.layers - 2) + ["peft", "head"]
    assert len({stage.graph.sha256 for stage in stages[1:-2]}) == TINY.layers - 2
    layer, top = (stage.multiplications for stage in (stages[1], stages[-2]))
    assert top == 2 * layer + place.manifest.layout.block("peft").size
    assert place.theta.shape == (place.manifest.layout.size,)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_works_twice(place: Workplace, kind: str, tmp_path: Path) -> None:
    found = measured(kind, place)
    assert found["peak_anonymous_bytes"] < found["peak_rss_bytes"]
    assert found["seconds"] > 0
    assert np.isfinite(list(found.values())).all()


def test_figures_are_of_the_round(place: Workplace) -> None:
    found = {ROUND: MEASURED | OF_A_ROUND, "held": {**MEASURED, "peak_rss_bytes": 3.5e9}}
    by_name = {figure["name"]: figure for figure in figures(place, found)}
    assert by_name["rss_gb_llama7b_int4"]["value"] == 2
    assert by_name["anon_gb_llama7b_streamed"]["value"] == 1
    assert by_name["anon_gb_llama7b_streamed"]["minutes_per_direction"] == 0.5
    text = "\n".join(report(TINY, place, found))
    assert "| a prediction, all layers in memory   | 3.50 " in text
    assert "sent 1,000 bytes, received 2,000 and the model; a direction took 0.50 minutes" in text


@pytest.mark.usefixtures("environment")
def test_an_agent_takes_part_in_two_rounds(place: Workplace, tmp_path: Path) -> None:
    found = run_rounds(place, tmp_path / "round")
    assert found["scalars"] == 2 * place.directions
    assert found["artifact_bytes"] > sum(file.bytes for file in place.manifest.files)
    assert 0 < found["bytes_sent"] < found["bytes_received"]
    assert found["peak_anonymous_bytes"] < found["peak_rss_bytes"]
    assert found["seconds_per_direction"] > 0
