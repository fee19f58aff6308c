from pathlib import Path

import numpy as np
import pytest
from client.engine.tiny_bundle import Bundle, make_dataset, make_theta, write_bundle

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def theta(bundle: Bundle) -> np.ndarray:
    return make_theta(bundle.manifest)


@pytest.fixture
def engine(bundle: Bundle, dataset: Dataset, tmp_path: Path):
    with Engine(bundle.folder, bundle.manifest, dataset, tmp_path / "cache", threads=1) as engine:
        yield engine
