"""What an export leaves behind, by how the head is to begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_job import job_spec
from helpers.tiny_text import LABELS, save_tiny_model
from server.model.conftest import save_model

from fwdllm_common.errors import BadInputError
from fwdllm_server.artifacts import ArtifactStore
from fwdllm_server.prepare import JobFolder, adopt, export_model


def spec_of(head: str, pooling: str = "mean"):
    model = {"labels": list(LABELS), "max_tokens": 16, "pooling": pooling, "head": head}
    return job_spec({"model": model, "peft": {"rank": 2, "layers": [-1]}})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def test_a_head_from_class_means_makes_a_draft_whose_head_is_zero(source: str, tmp_path: Path):
    spec, folder = spec_of("class-means"), JobFolder(tmp_path / "job")
    export_model(spec, source, folder)
    prepared = adopt(spec, folder, ArtifactStore(tmp_path / "artifacts"))

    assert prepared.draft
    head = prepared.state.theta[prepared.state.layout.block("head").slice]
    assert len(head) == len(LABELS) * 33
    np.testing.assert_array_equal(head, 0)


def test_a_head_of_two_layers_is_refused(tmp_path: Path):
    """RoBERTa's own: what its first layer makes of the features is not known before it is trained."""
    source = save_model("roberta", tmp_path / "model")

    with pytest.raises(BadInputError, match="class means need a head of one linear layer with a bias"):
        export_model(spec_of("class-means", "model"), source, JobFolder(tmp_path / "job"))
