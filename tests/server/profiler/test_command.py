"""``fwdllm-server profile``."""

from __future__ import annotations

import inspect
import json
import tempfile
import tomllib
from pathlib import Path

import pytest

from fwdllm_server.cli import run
from fwdllm_server.cli.profile import profile
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.profiler import measurement, profiler
from fwdllm_server.profiler.report import Report

CHEAP = '[[candidate]]\nmethod = "bitfit"\nlayers = [-1]\n'
TWO = CHEAP + '[[candidate]]\nmethod = "ia3"\nlayers = [-1]\n'
FEW = ("--rows", "8", "--epochs", "1", "--threads", "1")


@pytest.fixture
def candidates(tmp_path):
    file = tmp_path / "candidates.toml"
    file.write_text(CHEAP)
    return file


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where the profiler keeps its bundles while it needs them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_profile_in_a_folder(job_file, candidates, temporary, tmp_path, capfd):
    out = tmp_path / "new" / "out"
    arguments = ["profile", str(job_file), "--candidates", str(candidates), *FEW]

    assert run([*arguments, "--out", str(out)]) == 0
    captured = capfd.readouterr()
    assert "bitfit, top layer" in captured.out
    assert '[peft]\nmethod = "bitfit"\nlayers = [-1]\n' in captured.out
    assert sorted(path.name for path in out.iterdir()) == ["peft.toml", "profile.json", "profile.png"]
    assert tomllib.loads((out / "peft.toml").read_text()) == {"peft": {"method": "bitfit", "layers": [-1]}}
    assert list(temporary.iterdir()) == []

    assert run([*arguments, "--json", "--seed", "9"]) == 0
    found = Report.model_validate(json.loads(capfd.readouterr().out))
    kept = Report.model_validate_json((out / "profile.json").read_bytes())
    assert (found.settings.seed, kept.settings.seed) == (9, 5)


def test_an_interrupt_leaves_what_is_done(job_file, temporary, tmp_path, monkeypatch):
    file, out, done = tmp_path / "two.toml", tmp_path / "out", []
    file.write_text(TWO)
    measure = measurement.Bench.measure

    def interrupted(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return measure(*arguments)

    monkeypatch.setattr(measurement.Bench, "measure", interrupted)
    assert run(["profile", str(job_file), "--candidates", str(file), *FEW, "--out", str(out)]) == 130
    report = Report.model_validate_json((out / "profile.json").read_bytes())
    assert [candidate.name for candidate in report.candidates] == ["bitfit, top layer"]
    assert [path.name for path in out.iterdir()] == ["profile.json"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[candidate]]\nranks = 2", 'ranks is no known key; did you mean "rank"'),
        (
            '[[candidate]]\ntargets = ["querry"]',
            "candidate 'lora, rank 4, targets querry, all layers': no module 'querry'",
        ),
        ("[[candidate]]\nlayers = [7]", "candidate 'lora, rank 4, layers 7': no layer 7"),
    ],
)
def test_a_bad_candidate_ends_it_before_anything_is_measured(job_file, candidates, monkeypatch, capfd, text, message):
    candidates.write_text(CHEAP + text)
    monkeypatch.setattr(measurement.Bench, "measure", None)

    assert run(["profile", str(job_file), "--candidates", str(candidates), *FEW]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "61"], "lower --rows to 60"),
        (["--candidates", "gone.toml"], "gone.toml: cannot be read"),
    ],
)
def test_wrong_options(job_file, capfd, arguments, message):
    assert run(["profile", str(job_file), *arguments]) == 2
    assert message in capfd.readouterr().err


def test_defaults_that_do_not_fit_the_model_are_left_out(job_file, monkeypatch, capfd):
    specs = [PeftSpec(layers=[9]), PeftSpec(method="bitfit", layers=[-1])]
    monkeypatch.setattr(profiler, "default_candidates", lambda: specs)
    assert run(["profile", str(job_file), *FEW, "--json"]) == 0
    report = Report.model_validate_json(capfd.readouterr().out)
    assert [candidate.name for candidate in report.candidates] == ["bitfit, top layer"]
    assert list(report.left_out) == ["lora, rank 4, layers 9"]


def test_every_option_is_documented():
    document = (Path(__file__).parents[3] / "docs" / "profiler.md").read_text()
    options = {f"--{name}" for name in inspect.signature(profile).parameters if name != "file"}
    assert {option for option in options if f"`{option}`" not in document} == set()
