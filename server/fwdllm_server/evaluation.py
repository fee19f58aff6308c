"""The coordinator's own held-out rows, run through the device's engine: same code, same numbers."""

from __future__ import annotations

from itertools import islice
from math import isfinite
from pathlib import Path

import numpy as np

from fwdllm_client.data import Dataset, DataSource, labels_in
from fwdllm_client.engine import Engine
from fwdllm_common.errors import BadInputError, JobFailedError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server.job import JobSpec
from fwdllm_server.store.ledger import EvaluationRecord

_SAMPLE = 512
"""Texts that PEFT methods may look at."""


def check_held_out(spec: JobSpec, base_folder: Path) -> None:
    """Read the held-out file once, before any work is done.

    :raises BadInputError: it is missing, wrong, or has a label that the job does not name.
    """
    check_labels(spec, held_out_source(spec, base_folder))


def check_labels(spec: JobSpec, source: DataSource) -> int:
    """Read rows for the task of a job; returns how many there are.

    :raises BadInputError: the file is missing, wrong, or has a label that the job does not name.
    """
    labels, rows = labels_in(source)
    if unknown := set(labels) - set(spec.model.labels):
        raise BadInputError(
            f"{source.path}: label {sorted(unknown)[0]!r} is not in [model] labels; add it there or mend the file"
        )
    return rows


def held_out_source(spec: JobSpec, base_folder: Path) -> DataSource:
    """Where the held-out rows are."""
    section = spec.held_out
    return DataSource(base_folder / section.file, section.text_column, section.label_column)


def held_out_texts(spec: JobSpec, base_folder: Path) -> list[str]:
    """Some of the held-out texts, without their labels: the only text that the coordinator has."""
    return [row.text for row in islice(held_out_source(spec, base_folder).rows(), _SAMPLE)]


class HeldOutEvaluator:
    """Accuracy and loss of a version of θ; the frozen prefix is computed once and kept in ``cache_folder``."""

    def __init__(self, spec: JobSpec, base_folder: Path, bundle: Path, manifest: Manifest, cache_folder: Path) -> None:
        dataset = Dataset.load(held_out_source(spec, base_folder), bundle / manifest.tokenizer.name, manifest)
        self._rows = np.arange(len(dataset))
        self._engine = Engine(bundle, manifest, dataset, cache_folder)

    def evaluate(self, version: int, theta: Float32Vector) -> EvaluationRecord:
        """Evaluate θ, float32 ``[d]``, on every held-out row.

        :raises JobFailedError: the loss is not finite.
        """
        result = self._engine.evaluate(theta, self._rows)
        if not isfinite(result.loss):
            raise JobFailedError(
                f"the model has diverged: at version {version} its loss on the held-out rows is {result.loss}; "
                "submit the job with a lower learning_rate"
            )
        return EvaluationRecord(version, result.correct / result.total, result.loss, result.total)
