"""A version of a job's model, run as devices and the coordinator run it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fwdllm_client.data import Dataset, Source
from fwdllm_client.engine import Engine
from fwdllm_client.tasks import RowOptions, task_named
from fwdllm_client.tasks.task import Prediction
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server import tasks as server_tasks
from fwdllm_server.tasks.scores import Scores


@dataclass(frozen=True)
class TrainedModel:
    """The model in the folder ``bundle`` at a version, whose θ is float32 ``[d]``; 0 ``threads`` are one per core."""

    bundle: Path
    manifest: Manifest
    theta: Float32Vector
    version: int
    threads: int = 0

    def predict(self, texts: Iterable[str]) -> Sequence[Prediction]:
        """Predict the label of each text.

        :raises BadInputError: the model is for another task, or there is no text.
        """
        return self._predict(task_named(self.manifest.task).of_texts(texts, self._tokenizer, self.manifest))

    def predict_file(self, file: Path, options: RowOptions) -> Sequence[Prediction]:
        """Predict each row of a file.

        :raises BadInputError: the file or a row is wrong.
        """
        return self._predict(task_named(self.manifest.task).to_predict(file, options, self._tokenizer, self.manifest))

    def evaluate(self, source: Source) -> Scores:
        """Compare what the model says of each row with its label or its answers.

        :raises BadInputError: the file is wrong, or has a label that is not the model's.
        """
        dataset = Dataset.load(source, self._tokenizer, self.manifest)
        task = server_tasks.task_named(self.manifest.task)
        rows = np.arange(len(dataset))
        with self._engine(dataset) as engine:
            found = engine.evaluate(self.theta, rows, predicting=task.scores_predictions)
        return task.scored(found, dataset, rows, self.manifest.labels)

    @property
    def _tokenizer(self) -> Path:
        return self.bundle / self.manifest.tokenizer.name

    def _predict(self, dataset: Dataset) -> Sequence[Prediction]:
        with self._engine(dataset) as engine:
            return engine.predict(self.theta, np.arange(len(dataset)))

    @contextmanager
    def _engine(self, dataset: Dataset) -> Iterator[Engine]:
        with (
            tempfile.TemporaryDirectory() as scratch,
            Engine(self.bundle, self.manifest, dataset, Path(scratch), self.threads, cache_limit_bytes=0) as engine,
        ):
            yield engine
