"""Question answering from a job file to an adapter, on simulated devices: scalars alone teach a tiny BERT to answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from helpers.tiny_job import job_toml
from helpers.tiny_questions import save_encoder, write_questions

from fwdllm_server.cli import run
from fwdllm_server.simulation.store import SimulationStore
from fwdllm_server.store import assignments, ledger

JOB: dict[str, dict[str, Any]] = {
    "job": {"name": "questions", "seed": 3},
    "model": {"source": "model", "labels": None, "task": "question-answering", "max_tokens": 16},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.jsonl"},
    "rounds": {"count": 8, "min_devices": 3, "evaluate_every": 4, "federated_evaluate_every": 1},
    "blocks.head": {"directions": 96, "batch_size": 16, "learning_rate": 0.1},
    "blocks.peft": {"directions": 12, "batch_size": 8, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    save_encoder(folder / "model")
    write_questions(folder / "held_out.jsonl", 40, seed=0)
    write_questions(folder / "train.jsonl", 90, seed=1)
    (folder / "job.toml").write_text(job_toml(JOB))
    return folder


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    yield
    structlog.reset_defaults()


def simulate(place: Path, out: Path, *options: str) -> int:
    where = ["--data", str(place / "train.jsonl"), "--out", str(out), "--threads", "1"]
    return run(["simulate", str(place / "job.toml"), *where, "--devices", "3", *options])


def test_scalars_teach_it_to_answer(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate(place, tmp_path / "run", "--validation", "0.2") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "before, " in out.splitlines()[-4]
    assert out.splitlines()[-4].startswith("F1 ")
    assert ", exact match " in out
    before, *_, after = json.loads((tmp_path / "run" / "curve.json").read_bytes())
    assert before["accuracy"] < 0.4
    assert after["accuracy"] > before["accuracy"] + 0.3
    assert after["exact_match"] <= after["accuracy"]
    assert after["loss"] < before["loss"] - 0.5

    store = SimulationStore(tmp_path / "run" / "simulation.sqlite")
    with store.transaction() as connection:
        evaluated = ledger.evaluations_of(connection, "simulated")
        correct, total, f1 = assignments.federated_counts(connection, "simulated")
    store.close()
    assert [record.exact_match for record in evaluated][-1] == after["exact_match"]
    assert f1 is not None
    assert 0 < correct <= f1 <= total == 18


def test_labels_to_divide_by_are_missing(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert simulate(place, tmp_path / "run", "--partition", "dirichlet") != 0
    assert "a Dirichlet partition needs labels, which question-answering does not have" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
