from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from helpers.tiny_text import save_tiny_model, write_rows

import fwdllm
from fwdllm_server.simulation import simulation

SMALL: Mapping[str, Any] = {
    "preset": "default",
    "model": {"max_tokens": 16, "pooling": "mean"},
    "blocks": {"head": {"directions": 60, "batch_size": 32, "learning_rate": 0.1}},
}
"""What a job leaves to its preset is thousands of directions."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and rows for devices and coordinator."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    write_rows(folder / "train.csv", 120, seed=1)
    write_rows(folder / "held_out.csv", 40, seed=0)
    return folder


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Logging as a fresh program has it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def ready(run: fwdllm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting the model again is copying that of ``run``."""
    exported = run.folder / "simulation" / "model"
    monkeypatch.setattr(
        simulation, "export_model", lambda spec, source, folder, *_: shutil.copytree(exported, folder.path)
    )


@pytest.fixture(scope="session")
def run(place: Path) -> fwdllm.Run:
    """A run of three rounds on files."""
    return fwdllm.simulate(
        model=place / "model",
        train=place / "train.csv",
        held_out=place / "held_out.csv",
        devices=4,
        rounds=3,
        job=SMALL,
        threads=1,
    )
