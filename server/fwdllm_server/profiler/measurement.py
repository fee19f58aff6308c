"""Measure one candidate: what its forward gradients cost, and what it learns from public rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from fwdllm_client.data import Dataset
from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.trainable import HEAD_BLOCK, PEFT_BLOCK, POOLING_BLOCK, READOUT_BLOCK
from fwdllm_server.profiler.candidate_model import ModelMaker
from fwdllm_server.profiler.law import Cost
from fwdllm_server.profiler.public_rows import PublicRows
from fwdllm_server.profiler.training import Epoch, Learner

RATES: Mapping[str, float] = MappingProxyType(
    {HEAD_BLOCK: 0.01, PEFT_BLOCK: 0.002, POOLING_BLOCK: 0.003, READOUT_BLOCK: 0.003}
)
"""Rates of Adam by block: those of the presets for side modules, and for the others what does well on small sets."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """A candidate with the cost of its forward gradients and its ``epochs`` on ``rows`` training rows."""

    spec: PeftSpec
    cost: Cost
    rows: int
    epochs: Sequence[Epoch]
    bundle_bytes: int


class Bench:
    """Measures candidates one by one, on the same rows and in the same order of them."""

    def __init__(
        self, spec: JobSpec, maker: ModelMaker, rows: PublicRows, epochs: int, seed: int, threads: int
    ) -> None:
        self._task = spec.model.task
        self._maker = maker
        self._rows = rows
        self._epochs = epochs
        self._seed = seed
        if threads:
            torch.set_num_threads(threads)

    def measure(self, spec: PeftSpec, tick: Callable[[], None]) -> Measurement:
        """Measure a candidate; ``tick`` is called after each epoch.

        :raises BadInputError: the candidate does not fit the model, or no row can be learnt from.
        """
        with tempfile.TemporaryDirectory(prefix="fwdllm-profile-") as folder:
            made = self._maker.make(spec, Path(folder))
            manifest = made.manifest
            dataset = Dataset.load(self._rows.source, made.folder / manifest.tokenizer.name, manifest)
        training, validation = (
            np.flatnonzero(np.isin(dataset.records, rows) & dataset.learnable(np.arange(len(dataset))))
            for rows in (self._rows.training, self._rows.validation)
        )
        if not (len(training) and len(validation)):
            raise BadInputError(
                f"{self._rows.source.path}: no row has a label that the model can see; raise max_tokens"
            )
        learner = Learner(made.model, manifest.layout, dataset, self._task, manifest.pad_token_id, made.separator)
        epochs = []
        for epoch in learner.epochs(training, validation, self._epochs, RATES, self._seed):
            epochs.append(epoch)
            tick()
        cost = Cost.of(manifest, dataset.lengths[training])
        return Measurement(spec, cost, len(training), epochs, sum(file.bytes for file in manifest.files))
