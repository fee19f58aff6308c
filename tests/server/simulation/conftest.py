from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from client.engine.tiny_bundle import Bundle, make_dataset, write_bundle
from helpers.tiny_job import job_spec, job_toml
from helpers.tiny_text import LABELS, save_tiny_model, write_rows
from server.simulation.bench import Bench, sections

from fwdllm_client.data import Dataset
from fwdllm_client.tasks.classification import DataSource
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model
from fwdllm_server.simulation import simulation
from fwdllm_server.simulation.population import Population, VirtualDevice
from fwdllm_server.simulation.simulation import Simulation

SIMULATED: Mapping[str, Mapping[str, Any]] = {
    "job": {"name": "simulated-tiny", "seed": 3},
    "model": {"source": "model", "labels": list(LABELS), "max_tokens": 16, "pooling": "mean"},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.csv"},
    "rounds": {"count": 4, "min_devices": 3, "evaluate_every": 2},
    "blocks.head": {"directions": 30, "batch_size": 8, "learning_rate": 0.1},
    "blocks.peft": {"directions": 12, "batch_size": 4, "learning_rate": 0.01},
}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset(rows=120)


@pytest.fixture
def make_bench(bundle: Bundle, dataset: Dataset, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a bench of the tiny job with these ``[rounds]`` keys."""
    made: list[Bench] = []

    def make(devices: Sequence[VirtualDevice], population: dict[str, Any] | None = None, **rounds: Any) -> Bench:
        folder = tmp_path / f"bench-{len(made)}"
        made.append(Bench(folder, bundle, dataset, sections(**rounds), devices, **(population or {})))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, held-out rows, the devices' rows and the user of each, and a job file."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    write_rows(folder / "held_out.csv", 60, seed=0)
    write_rows(folder / "train.csv", 240, seed=1)
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (folder / "by_user.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "user"], *([*row, f"u{n % 7}"] for n, row in enumerate(rows[1:]))])
    (folder / "job.toml").write_text(job_toml(SIMULATED))
    return folder


@pytest.fixture(scope="session")
def exported(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the job, exported once."""
    folder = JobFolder(tmp_path_factory.mktemp("exported") / "model")
    export_model(job_spec(SIMULATED), str(place / "model"), folder)
    return folder.path


@pytest.fixture
def ready(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting the model is copying it."""
    monkeypatch.setattr(
        simulation, "export_model", lambda spec, source, folder, *_: shutil.copytree(exported, folder.path)
    )


@pytest.fixture
def simulate(place: Path, ready: None, tmp_path: Path) -> Iterator[Callable[..., Simulation]]:
    """Opens a simulation in a folder of this name, with these keys of the population and of ``[rounds]``."""
    with ExitStack() as opened:

        def simulate(name: str, population: dict[str, Any] | None = None, **rounds: Any) -> Simulation:
            toml = job_toml({**SIMULATED, "rounds": {**SIMULATED["rounds"], **rounds}})
            drawn = Population(**{"devices": 6, **(population or {})})
            data = DataSource(place / "train.csv")
            return opened.enter_context(Simulation(toml, place, data, drawn, tmp_path / name, threads=1))

        yield simulate
