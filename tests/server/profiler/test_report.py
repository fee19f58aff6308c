"""Which candidate comes first."""

from __future__ import annotations

import numpy as np
import pytest

from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.profiler.law import Cost
from fwdllm_server.profiler.measurement import Measurement
from fwdllm_server.profiler.report import Settings, difference, make_report
from fwdllm_server.profiler.training import Epoch

SETTINGS = Settings(job="j", model="m", metric="accuracy", rows=100, validation_rows=4, epochs=2, seed=0, threads=1)
NOISE = np.array([0.1, -0.1, 0.1, -0.1])
HEAD, TOP, ALL = PeftSpec(method="lora-fa", layers=[]), PeftSpec(layers=[-1]), PeftSpec()


def measured(spec: PeftSpec, share: float, *losses: np.ndarray) -> Measurement:
    """A candidate with 10 coordinates, and its losses of four rows after each of its epochs of 100 rows."""
    epochs = [Epoch(100 * index, values, 0.5) for index, values in enumerate(losses)]
    return Measurement(spec, Cost({"peft": 10}, {"peft": share}), 100, epochs, 1000)


def order(*measurements: Measurement) -> list[str]:
    return [candidate.name for candidate in make_report(measurements, SETTINGS, {}, {}).candidates]


def test_the_cheaper_of_two_that_reach_the_target_is_first() -> None:
    start = np.full(4, 1.0)
    # The gain of the dear one over the cheap one is 0.01 ± 0.06.
    cheap = measured(HEAD, 0.001, start, start - 0.3, start - 0.5 + NOISE)
    dear = measured(TOP, 0.5, start, start - 0.51, start - 0.4)
    report = make_report([dear, cheap], SETTINGS, {}, {})
    assert [each.name for each in report.candidates] == ["head alone", "lora, rank 4, top layer"]
    assert [each.passes_to_target for each in report.candidates] == pytest.approx([100 + 200 * 0.011, 100 + 100 * 5.5])
    assert [each.rank for each in report.candidates] == [1, 2]


def test_what_does_not_reach_the_target_comes_after_by_its_loss() -> None:
    start = np.full(4, 1.0)
    head = measured(HEAD, 0.001, start, start - 0.1)
    top, deep = measured(TOP, 0.5, start, start - 0.2), measured(ALL, 1.0, start, start - 0.6)
    assert order(head, top, deep) == ["lora, rank 4, all layers", "lora, rank 4, top layer", "head alone"]
    found = make_report([head, top, deep], SETTINGS, {}, {}).candidates
    assert [each.passes_to_target is None for each in found] == [False, True, True]
    assert found[0].gain is not None
    assert found[0].gain.mean == pytest.approx(0.5)


def test_without_the_head_alone_no_gain_is_known() -> None:
    (found,) = make_report([measured(TOP, 0.5, np.ones(4))], SETTINGS, {}, {"ia3": "why"}).candidates
    assert found.gain is None


def test_the_error_is_of_the_rows_differences() -> None:
    found = difference(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.5, 2.0, 3.0]))
    assert found.mean == 0.75
    assert found.error == pytest.approx(np.std([0.5, 0.5, 1.0, 1.0], ddof=1) / 2)
