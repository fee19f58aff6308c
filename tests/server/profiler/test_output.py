"""What people and job files get of a report."""

from __future__ import annotations

import tomllib

import pytest
from rich.console import Console
from server.profiler.conftest import BITFIT, HEAD, SIDE

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.profiler import plot as plotting
from fwdllm_server.profiler.peft_block import peft_block, settings_of
from fwdllm_server.profiler.plot import plot, require_plotting
from fwdllm_server.profiler.table import render


@pytest.mark.parametrize(
    "spec",
    [
        PeftSpec(),
        PeftSpec(method="bitfit", layers=[-2, -1]),
        PeftSpec(method="lora-xs", rank=8, alpha=2.5, bases="activations", targets=["query", 'a "b"'], layers=[0]),
    ],
)
def test_a_job_file_takes_the_block_as_it_is(spec):
    assert PeftSpec.model_validate(tomllib.loads(peft_block(settings_of(spec)))["peft"]) == spec


def test_the_table_names_every_candidate_in_order(report):
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render(report.model_copy(update={"left_out": {"ia3": "no such layer"}})))
    text = capture.get()
    places = [text.index(candidate.name) for candidate in report.candidates]
    assert places == sorted(places)
    assert {candidate.name for candidate in report.candidates} == {BITFIT, HEAD, SIDE}
    assert "left out: ia3 (no such layer)" in text
    assert max(map(len, text.splitlines())) <= 160


def test_the_plot_is_a_picture(report):
    assert plot(report).startswith(b"\x89PNG")


def test_without_matplotlib_the_plot_is_refused(monkeypatch):
    require_plotting()
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r"pip install 'fwdllm\[plot\]'"):
        require_plotting()
