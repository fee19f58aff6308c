"""The evaluation on the coordinator's held-out rows, with the device's engine: same code, same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset, Source
from fwdllm_client.engine import Engine
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server import tasks as server_tasks
from fwdllm_server.config.job import JobSpec
from fwdllm_server.store.ledger import EvaluationRecord

_SAMPLE = 512
"""The number of texts, at most, that features are centred by and that PEFT methods may read."""


def check_held_out(spec: JobSpec, base_folder: Path) -> None:
    """Read the held-out file once, before any other work.

    :raises BadInputError: the file is missing, wrong, or has a label that the job does not name.
    """
    check_rows(spec, held_out_source(spec, base_folder))


def check_rows(spec: JobSpec, source: Source) -> int:
    """Read rows for the task of a job and return their number.

    :raises BadInputError: the file is missing, wrong, or has a label that the job does not name.
    """
    contents = source.contents()
    if unknown := set(contents.labels) - set(spec.model.labels):
        raise BadInputError(
            f"{source.path}: label {sorted(unknown)[0]!r} is not in [model] labels; add it there or correct the file"
        )
    return contents.rows


def held_out_source(spec: JobSpec, base_folder: Path) -> Source:
    """Return the source of the held-out rows; relative paths start from ``base_folder``."""
    section = spec.held_out
    options = RowOptions(
        section.text_column,
        section.label_column,
        skip_incomplete=section.skip_incomplete,
        no_answer=spec.model.no_answer,
        pair_column=section.pair_column,
    )
    return task_named(spec.model.task).source(base_folder / section.file, options)


def held_out_texts(spec: JobSpec, base_folder: Path) -> Sequence[str]:
    """Return some held-out texts from the whole file, without labels: the coordinator has no other text."""
    texts = held_out_source(spec, base_folder).texts()
    return texts[:: ceil(len(texts) / _SAMPLE)]  # many files are sorted by label


class HeldOutEvaluator:
    """The accuracy (or F1) and the loss of a version of θ.

    The outputs of the frozen layers are computed once and kept in ``cache_folder``.
    """

    def __init__(self, spec: JobSpec, base_folder: Path, bundle: Path, manifest: Manifest, cache_folder: Path) -> None:
        self._dataset = Dataset.load(held_out_source(spec, base_folder), bundle / manifest.tokenizer.name, manifest)
        self._rows, self._validation = split_held_out(len(self._dataset), spec.held_out.validation)
        self._engine = Engine(bundle, manifest, self._dataset, cache_folder)
        self._task, self._labels = server_tasks.task_named(manifest.task), manifest.labels

    def evaluate(self, version: int, theta: Float32Vector) -> EvaluationRecord:
        """Evaluate θ, float32 ``[d]``, on every held-out row, those of the validation share apart.

        Of a θ that has diverged the loss may not be finite.
        """
        rows = len(self._rows)
        main, beside, loss = self._figures(theta, self._rows)
        if not len(self._validation):
            return EvaluationRecord(version, main, loss, rows, beside)
        chosen_by, _, chosen_by_loss = self._figures(theta, self._validation)
        return EvaluationRecord(version, main, loss, rows, beside, chosen_by, chosen_by_loss)

    def _figures(self, theta: Float32Vector, rows: NDArray[np.int64]) -> tuple[float, float | None, float]:
        """Return the task's two metrics on ``rows``, and the loss."""
        found = self._engine.evaluate(theta, rows, predicting=self._task.need_all_rows)
        return *self._task.figures(found, self._dataset, rows, self._labels), found.loss


def split_held_out(rows: int, validation: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the rows to report on, one at least, and of those to choose by, sorted.

    :param rows: how many there are.
    :param validation: the share to choose by; the same rows of a file each time.
    """
    order = np.random.Generator(np.random.Philox(key=0)).permutation(rows)
    count = min(round(rows * validation), rows - 1)
    return np.sort(order[count:]), np.sort(order[:count])
