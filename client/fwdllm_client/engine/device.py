"""Engines tuned to the device: provider, threads and tokens per run, with prepared weights."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fwdllm_client.data import Dataset
from fwdllm_client.engine.cache_folder import file_sizes
from fwdllm_client.engine.compiled import CompiledStages
from fwdllm_client.engine.engine import Engine
from fwdllm_client.engine.known_answers import known_answer_scalars
from fwdllm_client.engine.prepared import PreparedCpu
from fwdllm_client.engine.providers import accelerators
from fwdllm_client.engine.tuning import Tuner, Tuning
from fwdllm_common.files import make_folder
from fwdllm_common.known_answers import BlockScalars, KnownAnswerTest
from fwdllm_common.manifest import Manifest

MAX_CACHE_BYTES = 1 << 30
"""Upper bound of the activation cache, bytes; it also takes at most half of the disk's free space."""
MAX_PREPARED_BYTES = 8 << 30
"""Upper bound of prepared and compiled models, bytes; they also take at most half of the disk's free space."""
_KNOWN_ANSWERS = "known-answers"
_KNOWN_ANSWERS_BYTES = 1 << 20


class DeviceEngines:
    """Creates engines for the bundle in ``folder`` on the rows of ``dataset``.

    ``cache_folder`` holds activations, prepared models and tunings across restarts, at most ``limit_bytes`` for this
    bundle. ``threads`` of 0 means as many as tuning finds worthwhile.

    :raises StorageError: the cache folder cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        dataset: Dataset,
        cache_folder: Path,
        threads: int,
        limit_bytes: int = MAX_CACHE_BYTES + MAX_PREPARED_BYTES,
    ) -> None:
        make_folder(cache_folder)
        free = max(0, min(shutil.disk_usage(cache_folder).free // 2, limit_bytes))
        self._cache_bytes = min(MAX_CACHE_BYTES, free)
        activations = file_sizes(cache_folder, manifest, dataset, self._cache_bytes)
        prepared_bytes = min(MAX_PREPARED_BYTES, free, limit_bytes - sum(activations.values()))
        self._bundle = (folder, manifest, dataset)
        self._cache_folder = cache_folder
        store = CompiledStages(cache_folder / "prepared", prepared_bytes)
        cpu = PreparedCpu(store)
        # Where the model is not loaded once all rows are known, the known-answer test must not need it either.
        self._known_answers_bytes = min(_KNOWN_ANSWERS_BYTES, free) if manifest.features else 0
        test = {cache_folder / _KNOWN_ANSWERS: self._known_answers_bytes} if self._known_answers_bytes else {}
        self.files = activations | cpu.file_sizes(manifest) | test
        """What may be kept of this bundle below the cache folder, and how many bytes each may grow to."""
        clock = time.perf_counter
        tunings = cache_folder / "tunings"
        self.tuner = Tuner(folder, manifest, dataset, accelerators(manifest, store), cpu, threads, tunings, clock)

    def open(self, tuning: Tuning, scratch: Path | None = None) -> Engine:
        """Create an engine with the settings of ``tuning``; with a ``scratch`` folder it caches no activations.

        :raises StorageError: the cache folder cannot be written.
        """
        cache, limit = (self._cache_folder, self._cache_bytes) if scratch is None else (scratch, 0)
        provider = self.tuner.provider(tuning)
        return Engine(*self._bundle, cache, tuning.threads, limit, provider, tuning.tokens_per_run)

    def known_answer_scalars(self, tuning: Tuning, test: KnownAnswerTest) -> BlockScalars:
        """Compute the scalars of the bundle's known-answer test with the settings of ``tuning``.

        :raises StorageError: the cache folder cannot be written.
        """
        folder, manifest, _ = self._bundle
        provider = self.tuner.provider(tuning)
        scratch = self._cache_folder / _KNOWN_ANSWERS if self._known_answers_bytes else self._cache_folder
        return known_answer_scalars(
            folder, manifest, test, scratch, tuning.threads, provider, tuning.tokens_per_run, self._known_answers_bytes
        )
