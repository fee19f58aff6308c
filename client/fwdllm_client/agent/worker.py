"""The computations of an assignment, by the engine on the local data. Imported only when there is work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from fwdllm_client.cache.artifacts import Bundle
from fwdllm_client.cache.quota import CacheQuota
from fwdllm_client.data import Dataset, Source
from fwdllm_client.data.split import split
from fwdllm_client.engine import ClassSum, DeviceEngines, DirectionTask, distinct_rows
from fwdllm_client.engine.audit import audit
from fwdllm_client.policy.policy import MinBatchRows
from fwdllm_common.counts import Counts
from fwdllm_common.known_answers import KnownAnswerTest, signal_to_noise
from fwdllm_common.layout import Float32Vector
from fwdllm_common.orthogonal import AnyDirections

_log = structlog.get_logger()


class LocalCompute:
    """The engine for one bundle on the rows of ``source``, a fraction of which is held out for evaluation.

    Its caches count towards ``quota``. Every scalar is over at least ``min_batch_rows`` rows. ``threads`` of 0 means as
    many as tuning finds worthwhile.

    :raises NotAllowedError: a graph of the bundle is not what a device runs.
    :raises BadInputError: a row's label is not one of the model's, or a graph is unreadable.
    :raises StorageError: the activation cache cannot be written.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: Source,
        validation_fraction: float,
        quota: CacheQuota,
        threads: int,
        min_batch_rows: MinBatchRows,
    ) -> None:
        _log.debug("auditing the graphs", bundle=bundle.sha256)
        audit(bundle.folder, bundle.manifest)
        _log.debug("tokenising the rows", file=str(source.path))
        dataset = Dataset.load(source, bundle.folder / bundle.manifest.tokenizer.name, bundle.manifest)
        training, self._validation = split(len(dataset), validation_fraction)
        self._training = training[dataset.learnable(training)]
        self._bundle = bundle
        sizes = bundle.manifest.sizes
        self._engines = DeviceEngines(
            bundle.folder, bundle.manifest, dataset, quota.activations, threads, quota.remaining(sizes)
        )
        quota.reserve(bundle.sha256, sizes, self._engines.files)
        self._tuning = self._engines.tuner.tuning()
        self._engine = self._engines.open(self._tuning)
        self._engine.require(min_batch_rows.of(distinct_rows(dataset, self._training)))
        _log.info("model loaded", training_rows=len(self._training), validation_rows=len(self._validation))

    @property
    def example_passes(self) -> float:
        """Passes of one example through the whole model so far; a part of the model counts as its share."""
        return self._engine.example_passes

    def set_cancellation_check(self, check_cancelled: Callable[[], None]) -> None:
        """Call ``check_cancelled`` before every unperturbed run from now on; its exception ends the work."""
        self._engine.set_cancellation_check(check_cancelled)

    def signal_to_noise(self) -> float | None:
        """Run the bundle's known-answer test; return the signal-to-noise ratio, or None if there is no test."""
        manifest = self._bundle.manifest
        if manifest.known_answers is None:
            return None
        test = KnownAnswerTest.from_bytes((self._bundle.folder / manifest.known_answers.name).read_bytes())
        return signal_to_noise(self._engines.known_answer_scalars(self._tuning, test), test.expected)

    def derivatives(
        self, theta: Float32Vector, directions: AnyDirections, task: DirectionTask
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Compute directional derivatives on the training rows, in chunks with the index of their first."""
        return self._engine.derivatives(theta, directions, task, self._training)

    def evaluate(self, theta: Float32Vector) -> Counts:
        """Count the correct predictions on the validation rows."""
        return self._engine.evaluate(theta, self._validation).counts

    def class_sums(self, theta: Float32Vector) -> Sequence[ClassSum]:
        """Sum the head's inputs over the training rows of each class."""
        return self._engine.class_sums(theta, self._training)

    def unload(self) -> None:
        """Release the model's memory until there is work again."""
        self._engine.unload()
