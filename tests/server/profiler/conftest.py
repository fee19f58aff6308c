"""A tiny encoder's job, and one profile of it that several tests look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.tiny_text import LABELS, save_tiny_model, write_rows

from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.profiler.candidates import CandidateFile
from fwdllm_server.profiler.profiler import Amount, Profiler
from fwdllm_server.profiler.report import Report

JOB = f"""
[job]
name = "tiny"
seed = 5
[model]
source = "model"
labels = {json.dumps(LABELS)}
max_tokens = 16
pooling = "mean"
[held_out]
file = "held_out.csv"
[blocks.peft]
directions = 16
learning_rate = 0.01
"""
HEAD, SIDE, BITFIT = "head alone", "side", "bitfit, top layer"
CANDIDATES = """
[[candidate]]
method = "lora-fa"
layers = []
[[candidate]]
method = "side"
[[candidate]]
method = "bitfit"
layers = [-1]
"""
ROWS, EPOCHS = 48, 3


@pytest.fixture(scope="session")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 120, seed=1)
    file = folder / "job.toml"
    file.write_text(JOB)
    return file


@pytest.fixture(scope="session")
def ticks() -> list[None]:
    return []


@pytest.fixture(scope="session")
def report(job_file: Path, ticks: list[None]) -> Report:
    spec = parse_toml(JOB, JobSpec, "job file")
    candidates = parse_toml(CANDIDATES, CandidateFile, "candidates").candidate
    profiler = Profiler(spec, job_file.parent, Amount(ROWS, EPOCHS, seed=5, threads=1), candidates)
    return list(profiler.run(lambda name: None, lambda: ticks.append(None)))[-1]
