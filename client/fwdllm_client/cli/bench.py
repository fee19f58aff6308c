"""``fwdllm-client bench``: tuning of this device for a model, and the cost of the work."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fwdllm_client.agent.resource_usage import peak_rss_bytes
from fwdllm_client.data import Dataset, Source
from fwdllm_client.engine import DeviceEngines, DirectionTask
from fwdllm_client.engine.device import MAX_CACHE_BYTES, MAX_PREPARED_BYTES
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.manifest import MANIFEST_FILE, Manifest

BATCH = 8
DIRECTIONS = 8
_REPETITIONS = 3
_EPSILON = 1e-3


def joined_bundle(cache: Path) -> tuple[Path, Manifest]:
    """Return folder and manifest of the model that an agent with this cache folder used last.

    :raises BadInputError: the cache has no model.
    """
    folders = sorted((cache / "bundles").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders:
        manifest = cache / "files" / folder.name
        if manifest.exists():
            return folder, Manifest.from_bytes(manifest.read_bytes())
    raise BadInputError(f"{cache} holds no model yet; run the agent until it has one, or name a folder with --bundle")


def bundle_in(folder: Path) -> tuple[Path, Manifest]:
    """Return folder and manifest of a bundle that ``fwdllm-server export`` has written.

    :raises BadInputError: the folder has no manifest, or an unreadable one.
    """
    try:
        return folder, Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise BadInputError(
            f"{folder} holds no bundle ({error.strerror}); name a folder with a {MANIFEST_FILE}"
        ) from error


def bench(
    bundle: tuple[Path, Manifest],
    source: Source,
    cache_folder: Path,
    threads: int,
    limit_bytes: int = MAX_CACHE_BYTES + MAX_PREPARED_BYTES,
    nnapi: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Tune for the bundle on the rows of ``source`` and measure; the agent uses the tuning from then on.

    ``cache_folder`` is the agent's, whose whole cache may take ``limit_bytes``. Times are in seconds by ``clock``, for
    the first :data:`BATCH` rows together; that of a derivative is the mean of :data:`DIRECTIONS` on cached rows.
    ``nnapi`` also tries Android's NNAPI.

    :raises BadInputError: the data does not fit the model, or a graph is unreadable.
    """
    folder, manifest = bundle
    dataset = Dataset.load(source, folder / manifest.tokenizer.name, manifest)
    left = limit_bytes - sum(manifest.sizes.values())
    engines = DeviceEngines(folder, manifest, dataset, cache_folder, threads, left)
    tuning = engines.tuner.measure(opt_in=nnapi)
    rows = np.flatnonzero(dataset.learnable(np.arange(len(dataset))))[:BATCH]
    theta = np.zeros(manifest.layout.size, dtype=np.float32)

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(1 + _REPETITIONS):
            began = clock()
            work()
            times.append(clock() - began)
        return min(times[1:])  # the first run fills the cache

    with (
        tempfile.TemporaryDirectory(dir=cache_folder) as scratch,
        engines.open(tuning, Path(scratch)) as uncached,
    ):
        inference = fastest(lambda: uncached.evaluate(theta, rows))
    derivatives = {}
    with engines.open(tuning) as engine:
        for block in manifest.layout.blocks:
            task = DirectionTask(block, np.arange(DIRECTIONS, dtype=np.uint64), _EPSILON, len(rows))
            seconds = fastest(lambda task=task: list(engine.derivatives(theta, Directions(0), task, rows)))  # type: ignore[misc]
            derivatives[block] = seconds / DIRECTIONS
    return {
        "bundle": str(folder),
        "provider": tuning.provider,
        "threads": tuning.threads,
        "tokens_per_run": tuning.tokens_per_run,
        "providers_tried": [asdict(attempt) for attempt in tuning.attempts],
        "rows": len(rows),
        "seconds_per_inference": inference,
        "seconds_per_derivative": derivatives,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the results of :func:`bench` as lines of text."""
    yield f"model           {found['bundle']}"
    yield f"runs on         {found['provider']}, {found['threads']} threads, {found['tokens_per_run']} tokens per run"
    for attempt in found["providers_tried"]:
        speed = attempt["seconds_per_token"]
        nodes = ", ".join(f"{count} nodes on {name}" for name, count in attempt["nodes"].items())
        how = attempt["refused"] or f"{speed * 1e6:,.0f} µs per token{f' ({nodes})' if nodes else ''}"
        yield f"  {attempt['provider']:13} {how}"
    yield f"inference       {found['seconds_per_inference']:.4f} s for {found['rows']} rows"
    for block, seconds in found["seconds_per_derivative"].items():
        share = seconds / found["seconds_per_inference"]
        yield f"derivative      {seconds:.4f} s in block {block}, {share:.2f} of an inference"
    yield f"peak memory     {found['peak_rss_bytes'] / 1e6:,.0f} MB"
