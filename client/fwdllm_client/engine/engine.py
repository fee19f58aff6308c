"""The engine of one model bundle on one set of local rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.activations import ActivationCache
from fwdllm_client.engine.base_pass import Rows
from fwdllm_client.engine.batches import padded_lengths
from fwdllm_client.engine.cache_folder import open_caches
from fwdllm_client.engine.class_sums import ClassSum, class_sums
from fwdllm_client.engine.cost import PassCost
from fwdllm_client.engine.derivatives import Derivatives, DirectionTask, directional_derivatives
from fwdllm_client.engine.evaluate import Evaluation, evaluate
from fwdllm_client.engine.predict import predict
from fwdllm_client.engine.runs import TOKENS_PER_RUN
from fwdllm_client.engine.sessions import Cpu, Provider
from fwdllm_client.engine.stages import Float32, StageChain
from fwdllm_client.tasks.task import Prediction
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import Manifest
from fwdllm_common.orthogonal import AnyDirections


class Engine:
    """Computes with the bundle in ``bundle_folder``, whose files the caller has verified, on the rows of ``dataset``.

    Activations are cached in ``cache_folder`` across restarts, at most ``cache_limit_bytes``; a limit of 0 disables the
    cache. ``threads`` of 0 means one per core. ``provider`` runs the model, at most ``tokens_per_run`` tokens at once.
    An engine is a context manager, and not for several threads at once.

    :raises BadInputError: a graph is unreadable.
    :raises StorageError: the cache folder cannot be written.
    """

    def __init__(
        self,
        bundle_folder: Path,
        manifest: Manifest,
        dataset: Dataset,
        cache_folder: Path,
        threads: int = 0,
        cache_limit_bytes: int = 1 << 30,
        provider: Provider = Cpu(),  # noqa: B008 - has no state
        tokens_per_run: int = TOKENS_PER_RUN,
    ) -> None:
        self._cost = PassCost(manifest)
        chain = StageChain(bundle_folder, manifest, provider, threads)
        padded = padded_lengths(dataset.lengths, manifest.max_tokens)
        self._caches: Mapping[int, ActivationCache] = open_caches(cache_folder, manifest, dataset, cache_limit_bytes)
        self._shared = Rows(chain, dataset, padded, self._caches, self._cost, tokens_per_run)

    @property
    def example_passes(self) -> float:
        """Rows × forward passes so far; a part of the model counts as its share."""
        return self._cost.example_passes

    def set_cancellation_check(self, check_cancelled: Callable[[], None]) -> None:
        """Call ``check_cancelled`` before every unperturbed run from now on; its exception ends the work."""
        self._shared.check_cancelled = check_cancelled

    def require(self, min_batch_rows: int) -> None:
        """Refuse directions on a batch of fewer than ``min_batch_rows`` distinct rows from now on."""
        self._shared.min_batch_rows = min_batch_rows

    def derivatives(
        self, theta: Float32, directions: AnyDirections, task: DirectionTask, rows: RowIndices
    ) -> Iterator[tuple[int, Derivatives]]:
        """Yield the derivatives along the task's directions in chunks: index of the first, and float64 values.

        ``theta`` is float32 ``[d]``; the batch is drawn from ``rows``. Each chunk is computed on demand, so the caller
        may stop between chunks. A diverged model gives values that are not finite.

        :raises BadInputError: θ has another length, there are no rows, or the model has no such block.
        :raises NotAllowedError: the batch has fewer distinct rows than are required.
        """
        return directional_derivatives(self._shared, self._checked(theta), directions, task, rows)

    def evaluate(self, theta: Float32, rows: RowIndices, predicting: bool = False) -> Evaluation:
        """Compute correct predictions and mean loss over ``rows`` at ``theta``, float32 ``[d]``.

        With ``predicting`` it has the prediction of each row too.

        :raises BadInputError: θ has another length.
        """
        return evaluate(self._shared, self._checked(theta), rows, predicting)

    def predict(self, theta: Float32, rows: RowIndices) -> Sequence[Prediction]:
        """Predict each of ``rows`` at ``theta``, float32 ``[d]``.

        :raises BadInputError: θ has another length.
        """
        return predict(self._shared, self._checked(theta), rows)

    def class_sums(self, theta: Float32, rows: RowIndices) -> Sequence[ClassSum]:
        """Sum the head's inputs at ``theta``, float32 ``[d]``, for each class among ``rows``.

        :raises BadInputError: θ has another length, or the head reads no pooled features.
        """
        return class_sums(self._shared, self._checked(theta), rows)

    def unload(self) -> None:
        """Release the model's memory until there is work again."""
        self._shared.chain.unload_all_but(range(0))

    def close(self) -> None:
        """Unload the model and close the cache files."""
        self.unload()
        for cache in self._caches.values():
            cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, theta: Float32) -> Float32:
        size = self._shared.chain.manifest.layout.size
        if theta.shape != (size,):
            raise BadInputError(f"theta has shape {theta.shape}, expected ({size},)")
        return np.ascontiguousarray(theta, dtype=np.float32)
