"""A newcomer's path: a page's own commands, job file and Python, one after the other, both machines on loopback."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.documented import blocks, commands
from helpers.federation import PROGRAMS, Federation
from helpers.undemanding import ask_for_nothing
from helpers.without_fwdllm import run_without_fwdllm

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.evaluation import split_held_out

JOB = "reviews"
TOLD = {"cloud.example": "localhost", "NAME": JOB}
"""What the pages call a thing of the reader's own, and what it is called here."""
# What the preset leaves open is thousands of directions.
SMALL = """
[blocks.head]
directions = 60
batch_size = 32
learning_rate = 0.1
"""
PREDICT = """
import json
from transformers import pipeline
classify = pipeline("text-classification", "adapter", trust_remote_code=True, truncation=True, top_k=None)
json.dump(classify(json.load(open("texts.json"))), open("said.json", "w"))
"""


@pytest.fixture
def folder(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the reader has: a model, rows, and the tutorial's job file; home and ports are the test's own."""
    (job,) = [block.text for block in blocks("toml") if block.page == "docs/tutorial.md"]
    (tmp_path / "job.toml").write_text('preset = "default"\n' + job + SMALL)
    shutil.copytree(workplace / "model", tmp_path / "model")
    shutil.copy(workplace / "held_out.csv", tmp_path)
    shutil.copy(workplace / "device-1.csv", tmp_path / "reviews.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FWDLLM_HOME", str(tmp_path / "home"))
    ask_for_nothing(tmp_path / "home")
    return tmp_path


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/tutorial.md", marks=pytest.mark.nightly)])
def test_a_newcomer_ends_with_a_model_that_answers_as_the_coordinator_saw(folder: Path, page: str) -> None:
    with Federation(folder) as federation:
        federation.server_folder = folder / "fwdllm-server"
        follow(page, federation)
        rows = predictions_of_the_coordinator(federation, folder)
    shutil.rmtree(folder / "model")
    (folder / "demo-output").mkdir()
    (folder / "demo-output" / "adapter").symlink_to(folder / "adapter")
    for block in blocks("python"):
        if block.page == page:
            assert run_without_fwdllm(block.text, folder) or "save_pretrained" in block.text
    (folder / "texts.json").write_text(json.dumps([text for text, _, _ in rows]))
    run_without_fwdllm(PREDICT, folder)
    said = json.loads((folder / "said.json").read_bytes())
    assert len(said) == len(rows) == 150
    for scores, (text, label, chance) in zip(said, rows, strict=True):
        by_label = {each["label"]: each["score"] for each in scores}
        assert by_label[label] == pytest.approx(chance, abs=1e-4), text
    card = (folder / "adapter" / "README.md").read_text()
    assert "| held-out rows, of which the results are | 120 |" in card
    assert all(str(folder).encode() not in path.read_bytes() for path in (folder / "adapter").rglob("*.*"))


def follow(page: str, federation: Federation) -> None:
    """Type what the page says of two machines."""
    token = ""
    for command in commands():
        if command.page != page or not command.is_ours or "simulate" in command.words:
            continue
        program, *arguments = command.words
        told = [token if "…" in word else TOLD.get(word, word) for word in arguments]
        if told[0] in ("serve", "run"):
            federation.start(told[0], PROGRAMS / program, *told)
            if told[0] == "serve":
                with operator_service(Path("fwdllm-server")) as service:
                    service.ListJobs(ListJobsRequest(), timeout=60, wait_for_ready=True)
            continue
        if told[0] in ("dashboard", "top"):
            continue
        done = subprocess.run(
            [PROGRAMS / program, *told], capture_output=True, text=True, check=False, env=os.environ, timeout=240
        )
        assert done.returncode == 0, (program, told, done.stdout, done.stderr, federation.logs())
        if told[0] == "enroll":
            token = done.stdout.split()[-1]
    assert token


def predictions_of_the_coordinator(federation: Federation, folder: Path) -> list[tuple[str, str, float]]:
    """Text, label and the label's probability, for each held-out row, as the coordinator's evaluation computes them."""
    job = json.loads(federation.server("job", "show", JOB, "--json"))
    place = federation.server_folder / "jobs" / job["job_id"]
    manifest = Manifest.from_bytes((place / "bundle" / "manifest.json").read_bytes())
    state = ModelState.initial(federation.run_header(), manifest.layout, np.load(place / "initial_theta.npy"))
    for entry in federation.ledger():
        state.advance(LedgerEntry.from_bytes(entry))
    assert state.digest.hex() == job["theta_digest"]
    source = DataSource(folder / "held_out.csv")
    dataset = Dataset.load(source, place / "bundle" / manifest.tokenizer.name, manifest)
    engine = Engine(place / "bundle", manifest, dataset, folder / "cache")
    found = [engine.evaluate(state.theta, np.array([row])) for row in range(len(dataset))]
    spec = JobSpec.model_validate(tomllib.loads((folder / "job.toml").read_text()))
    reported = split_held_out(len(dataset), spec.held_out.validation).reported
    assert sum(found[row].correct for row in reported) / len(reported) == job["latest_evaluation"]["accuracy"]
    with (folder / "held_out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["text"], row["label"], math.exp(-each.loss)) for row, each in zip(rows, found, strict=True)]
