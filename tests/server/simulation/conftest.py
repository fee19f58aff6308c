from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from client.engine.tiny_bundle import Bundle, make_dataset, write_bundle
from server.simulation.bench import Bench, sections

from fwdllm_client.data import Dataset
from fwdllm_server.simulation.population import VirtualDevice


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
