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
BITFIT, QUERY, KEY = "bitfit, top 2 layers", "lora, rank 4, targets query, layers 0", "bitfit, targets key, all layers"
# Biases matter. A random encoder's attention is the same everywhere: what its lowest layer asks for matters hardly.
# And an attention's softmax is blind to what all keys have in common.
CANDIDATES = """
[[candidate]]
method = "lora"
targets = ["query"]
layers = [0]
[[candidate]]
method = "bitfit"
targets = ["key"]
[[candidate]]
method = "bitfit"
layers = [-2, -1]
"""


@pytest.fixture(scope="session")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 120, seed=1)
    file = folder / "job.toml"
    file.write_text(JOB)
    return file


@pytest.fixture(scope="session")
def ticks() -> list[int]:
    return []


@pytest.fixture(scope="session")
def report(job_file: Path, ticks: list[int]) -> Report:
    spec = parse_toml(JOB, JobSpec, "job file")
    candidates = parse_toml(CANDIDATES, CandidateFile, "candidates").candidate
    profiler = Profiler(spec, job_file.parent, Amount(directions=256, rows=16, seed=5, threads=1), candidates)
    return list(profiler.run(lambda name: None, ticks.append))[-1]
