"""``fwdllm-server job submit --check``: no server is needed, and none is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
from helpers.tiny_job import job_toml
from helpers.tiny_text import save_tiny_model, write_rows

from fwdllm_server.cli import run

SECTIONS = {
    "model": {"source": "model", "labels": None, "max_tokens": 16, "pooling": "mean"},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.csv"},
    "rounds": {"count": 7, "min_devices": 2},
    "blocks.head": {"directions": 30, "batch_size": 8, "learning_rate": 0.1},
    "blocks.peft": {"directions": 12, "batch_size": 4, "learning_rate": 0.01, "first_round": 5},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "held_out.csv", 40, seed=0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # what the command leaves behind
    yield tmp_path
    structlog.reset_defaults()


@pytest.mark.timeout(600)
def test_it_predicts_what_a_device_spends(place, capfd):
    (place / "job.toml").write_text(job_toml(SECTIONS))
    before = sorted(place.iterdir())
    code = run(["job", "submit", "job.toml", "--check", "--json"])
    out, err = capfd.readouterr()

    assert code == 0, err
    found = json.loads(out)
    assert (found["rounds"], found["devices"], found["rows"]) == (7, 2, 20)
    assert found["trainable_parameters"] > 0
    assert found["model_bytes"] > 10_000
    # A scalar is four bytes, and a device measures half of the 42 directions, those of the late block among them.
    assert found["later"]["bytes_up"] > 21 * 4
    # The rows that the frozen layers have seen once are read from the cache.
    assert found["first"]["example_passes"] > found["later"]["example_passes"] > 0
    assert found["total"]["bytes_up"] == pytest.approx(found["first"]["bytes_up"] + 6 * found["later"]["bytes_up"])
    assert found["total"]["seconds"] == pytest.approx(found["total"]["example_passes"] * found["seconds_per_pass"])
    assert found["peak_rss_bytes"] > 1 << 20
    assert sorted(place.iterdir()) == before


def test_what_submit_would_refuse_it_refuses(place, capfd):
    (place / "job.toml").write_text(job_toml({**SECTIONS, "held_out": {"file": "gone.csv"}}))

    assert run(["job", "submit", "job.toml", "--check"]) == 2
    assert "gone.csv: cannot read the data" in capfd.readouterr().err


@pytest.mark.timeout(600)
def test_it_says_what_noise_a_budget_needs_and_how_many_rounds_it_lasts(place, capfd):
    private = {"privacy": {"epsilon": 2.0, "delta": 1e-5, "clip": 1.0, "rounds_per_device": 3}}
    auto = {"directions": "auto", "batch_size": "auto"}
    head = {**auto, "learning_rate": 0.1, "directions": "auto", "batch_size": "auto"}
    (place / "job.toml").write_text(job_toml({**SECTIONS, **private, "blocks.peft": None, "blocks.head": head}))
    code = run(["job", "submit", "job.toml", "--check"])
    out, err = capfd.readouterr()

    assert code == 0, err
    assert "times the clip on each sum, with which epsilon = 2 at delta = 1e-05 lasts for 3 rounds of a device" in out
    assert "ends after 3 of 7 rounds" in out
