"""``make bench-device QUICK=1`` in part, and what its figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.device.accuracy import accuracy
from benchmarks.device.memory import Watch, anonymous_bytes
from benchmarks.device.report import all_figures, sections
from benchmarks.device.shapes import QUICK_SHAPE, export_shape
from benchmarks.device.workplace import BATCH, Workplace
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.prepared import PreparedCpu
from fwdllm_client.engine.sessions import Cpu
from fwdllm_common.directions import Directions

REPOSITORY = Path(__file__).parents[2]
ACCURACY = {"directions": 24, "correlation": 0.98761, "relative_error": 0.1234}
METHODS = ("first-start", "inference", "derivative-head", "derivative", "torch-lora-checkpointing")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("tiny")
    export_shape(QUICK_SHAPE, folder / QUICK_SHAPE.name)
    return Workplace(QUICK_SHAPE.name, folder / QUICK_SHAPE.name, folder / "cache", 1, QUICK_SHAPE.config.vocab_size)


def test_prepared_weights_change_no_bit_of_a_transformers_scalars(place: Workplace, tmp_path: Path) -> None:
    def scalars(provider: Cpu, tokens: int) -> bytes:
        folder = tmp_path / provider.__class__.__name__
        with Engine(place.bundle, place.manifest, place.rows, folder, 1, 1 << 20, provider, tokens) as engine:
            task = DirectionTask("peft", np.arange(5, dtype=np.uint64), 1e-3, BATCH)
            theta = place.theta + np.float32(0.02) * Directions(9).vector(9, 0, len(place.theta))
            chunks = engine.derivatives(theta, Directions(1), task, np.arange(BATCH))
            return np.concatenate([values for _, values in chunks]).tobytes()

    prepared = PreparedCpu(CompiledStages(tmp_path / "prepared", 1 << 30), worth_bytes=0)
    assert scalars(prepared, 256) == scalars(Cpu(), 256)
    assert len(list((tmp_path / "prepared").iterdir())) == 2


@pytest.mark.timeout(600)
def test_quick_run(place: Workplace) -> None:
    chosen = [argument for name in METHODS for argument in ("--methods", name)]
    output = place.bundle.parent
    command = [sys.executable, "-m", "benchmarks.device", "--quick", "--repetitions", "1", "--output", str(output)]
    done = subprocess.run([*command, *chosen], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| plain inference " in (output / "device.md").read_text()
    report = json.loads((output / "device.json").read_text())
    (measured,) = report["measurements"].values()
    assert measured.keys() == set(METHODS)
    for repetitions in measured.values():
        (found,) = repetitions
        assert 0 < found["peak_anonymous_bytes"] < found["peak_rss_bytes"]
        assert found["seconds"] > 0
    torch, own = (measured[name][0]["peak_rss_bytes"] for name in ("torch-lora-checkpointing", "derivative"))
    assert own < torch


def repetition(rss: float, seconds: float) -> dict[str, float]:
    return {"peak_rss_bytes": rss, "peak_anonymous_bytes": rss / 2, "cpu_seconds": seconds, "seconds": seconds}


def test_figures_count_the_worst_of_training() -> None:
    results = {
        "minilm": {
            "inference": [repetition(100e6, 1.0), repetition(110e6, 3.0), repetition(100e6, 1.0)],
            "first-start": [repetition(105e6, 9.0)],
            "derivative-head": [repetition(50e6, 0.02)],
            "derivative": [repetition(50e6, 0.3)],
        },
        "bert_base": {
            "inference": [repetition(400e6, 4.0)],
            "derivative": [repetition(200e6, 1.0)],
            "torch-full": [repetition(2e9, 9.0)],
        },
    }
    figures = {
        figure["name"]: figure for figure in all_figures(results, {"bert_base": "int8"}, {"bert_base": ACCURACY})
    }
    assert figures["memory_ratio_minilm"]["value"] == 1.05
    assert figures["time_ratio_default"]["value"] == 0.02
    assert figures["time_ratio_upper_layers"]["value"] == 0.3
    assert figures["rss_gb_bert_base"]["value"] == 0.2
    assert figures["rss_gb_bert_base"]["weights"] == "int8"
    assert figures["rss_gb_bert_base"]["peer"]["torch-full"] == 2
    assert figures["rss_gb_roberta_large"]["value"] is None
    text = "\n".join(sections(results, {"minilm": "MiniLM", "bert_base": "BERT"}, {"bert_base": ACCURACY}))
    assert "| 100 (100–110) " in text
    assert text.count("correlation 0.9876, relative error 0.123.") == 1
    assert figures["rss_gb_bert_base"]["scalars"] == ACCURACY


def test_a_quantised_shape_comes_with_the_accuracy_of_its_scalars(tmp_path: Path) -> None:
    export_shape(replace(QUICK_SHAPE, precision="int8"), tmp_path / "shape")
    found = accuracy(tmp_path / "shape")
    assert found is not None
    assert 0.9 < found["correlation"] < 1
    assert 0 < found["relative_error"] < 0.5


def test_a_float32_shape_has_none(place: Workplace) -> None:
    assert accuracy(place.bundle) is None


def test_the_watch_sees_what_is_gone_again() -> None:
    before = anonymous_bytes()
    with Watch() as watch:
        held = np.ones(8 << 20)
        while watch.peak_anonymous_bytes < before + held.nbytes // 2:
            held += 1
        del held
    assert watch.peak_rss_bytes >= watch.peak_anonymous_bytes >= before + (32 << 20)
