"""What a candidate learns is what its devices would: the same losses, and a question's span as well as a class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from server.model.conftest import save_model
from server.profiler.conftest import JOB

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.model.trainable import initial_theta
from fwdllm_server.profiler.candidate_model import ModelMaker
from fwdllm_server.profiler.candidates import HEAD_ALONE
from fwdllm_server.profiler.measurement import RATES
from fwdllm_server.profiler.profiler import Amount, Profiler
from fwdllm_server.profiler.public_rows import PublicRows
from fwdllm_server.profiler.training import Learner, best_of


@pytest.mark.parametrize("peft", [PeftSpec(method="side"), PeftSpec(layers=[-1])], ids=lambda spec: spec.method)
def test_losses_are_those_of_the_devices_engine(job_file: Path, tmp_path: Path, peft: PeftSpec) -> None:
    spec = parse_toml(JOB, JobSpec, "job file")
    rows = PublicRows.draw(spec, job_file.parent, 32, 1)
    made = ModelMaker(spec, str(job_file.parent / "model"), 1, rows.texts).make(peft, tmp_path)
    manifest = made.manifest
    dataset = Dataset.load(rows.source, made.folder / manifest.tokenizer.name, manifest)
    learner = Learner(made.model, manifest.layout, dataset, spec.model.task, manifest.pad_token_id)
    epochs = list(learner.epochs(rows.training, rows.validation, 2, RATES, seed=1))
    assert [epoch.visits for epoch in epochs] == [0, 32, 64]
    assert best_of(epochs).loss < epochs[0].loss
    with Engine(made.folder, manifest, dataset, tmp_path / "cache") as engine:
        found = engine.evaluate(initial_theta(made.model, manifest.layout), rows.validation)
    assert found.loss == pytest.approx(epochs[-1].loss, rel=1e-4)
    assert found.score == epochs[-1].score


def test_a_profile_repeats_itself(job_file: Path) -> None:
    spec = parse_toml(JOB, JobSpec, "job file")
    losses = []
    for _ in range(2):
        profiler = Profiler(spec, job_file.parent, Amount(16, 1, seed=2, threads=1), [HEAD_ALONE])
        (report,) = profiler.run(lambda name: None, lambda: None)
        losses.append([epoch.loss for epoch in report.candidates[0].epochs])
    assert losses[0] == losses[1]


def test_questions_can_be_profiled(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "model")
    words = ["the", "old", "song", "new"]
    rows = [
        {"question": "Which?", "context": " ".join(np.roll(words, shift)), "answer": "song", "answer_start": start}
        for shift in range(4)
        for start in [" ".join(np.roll(words, shift)).index("song")]
    ] * 4
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = """
[job]
name = "asking"
[model]
source = "model"
task = "question-answering"
max_tokens = 16
[held_out]
file = "held_out.jsonl"
[blocks.head]
directions = 4
learning_rate = 0.1
"""
    spec, amount = parse_toml(job, JobSpec, "job file"), Amount(8, 2, seed=1, threads=1)
    candidates = [HEAD_ALONE, PeftSpec(layers=[-1])]
    report = list(Profiler(spec, tmp_path, amount, candidates).run(lambda name: None, lambda: None))[-1]
    assert report.settings.metric == "F1"
    assert all(candidate.loss < candidate.epochs[0].loss for candidate in report.candidates)
