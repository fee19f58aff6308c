"""Known-answer test of a bundle: its scalars as this machine computes them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_client.engine.derivatives import DirectionTask
from fwdllm_client.engine.engine import Engine
from fwdllm_client.engine.runs import TOKENS_PER_RUN
from fwdllm_client.engine.sessions import Cpu, Provider
from fwdllm_client.tasks import task_named
from fwdllm_common.known_answers import TEST_DIRECTIONS, TEST_SEEDS, BlockScalars, KnownAnswerTest
from fwdllm_common.manifest import Manifest


def known_answer_scalars(
    bundle_folder: Path,
    manifest: Manifest,
    test: KnownAnswerTest,
    scratch: Path,
    threads: int,
    provider: Provider = Cpu(),  # noqa: B008 - has no state
    tokens_per_run: int = TOKENS_PER_RUN,
    kept_bytes: int = 0,
) -> BlockScalars:
    """Compute the scalars of every direction of ``test`` by a temporary engine.

    ``scratch`` is a folder for temporary files. With ``kept_bytes`` it keeps as many bytes of activations for the next
    time. The other parameters are as for :class:`Engine`.

    :raises BadInputError: a graph is unreadable, or the test belongs to another model.
    :raises StorageError: ``scratch`` cannot be written.
    """
    rows = np.arange(len(test.rows))
    tasks = {
        block: DirectionTask(block, TEST_SEEDS, epsilon, len(rows), test.central)
        for block, epsilon in test.epsilons.items()
    }
    with ExitStack() as stack:
        folder = scratch if kept_bytes else Path(stack.enter_context(TemporaryDirectory(dir=scratch)))
        dataset = _dataset(test, manifest)
        engine = stack.enter_context(
            Engine(bundle_folder, manifest, dataset, folder, threads, kept_bytes, provider, tokens_per_run)
        )
        return {
            block: [
                float(value)
                for _, values in engine.derivatives(test.theta, TEST_DIRECTIONS, task, rows)
                for value in values
            ]
            for block, task in tasks.items()
        }


def _dataset(test: KnownAnswerTest, manifest: Manifest) -> Dataset:
    offsets = np.cumsum([0, *map(len, test.rows)], dtype=np.int64)
    tokens = np.array([token for row in test.rows for token in row], dtype=np.int32)
    dataset = task_named(manifest.task).dataset(tokens, offsets, np.array(test.labels))
    return dataset.weighted(manifest.class_weights)
