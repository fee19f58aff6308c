"""A head that starts from the class means of labelled rows on the coordinator (decision 0029)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Dataset, Source
from fwdllm_client.engine import Engine
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server.algorithm.class_means import ClassTotals, LinearHead, head_from_means
from fwdllm_server.config.job_sections import HeldOutSection
from fwdllm_server.preparation.evaluation import split_held_out


def with_labelled_start(
    bundle: Path, manifest: Manifest, theta: Float32Vector, source: Source, section: HeldOutSection
) -> Float32Vector:
    """Return θ, float32 ``[d]``, whose head starts from the rows of ``source`` that ``section`` sets apart for it.

    :raises BadInputError: no row is set apart, the head is not one linear layer, or features are not finite.
    """
    dataset = Dataset.load(source, bundle / manifest.tokenizer.name, manifest)
    rows = split_held_out(len(dataset), section.validation, section.start).start
    if not len(rows):
        raise BadInputError(
            f"{source.path}: [held_out] start = {section.start:g} of {len(dataset)} rows is none; raise it or add rows"
        )
    with (
        tempfile.TemporaryDirectory(dir=bundle.parent) as cache,
        Engine(bundle, manifest, dataset, Path(cache), cache_limit_bytes=0) as engine,
    ):
        return _with_head_of(engine, manifest, theta, rows)


def _with_head_of(engine: Engine, manifest: Manifest, theta: Float32Vector, rows: NDArray[np.int64]) -> Float32Vector:
    """Return θ, float32 ``[d]``, with the head that follows from the features of ``rows`` at ``theta``.

    :raises BadInputError: the head is not one linear layer, or features are not finite.
    """
    head = LinearHead.of(manifest)
    totals = ClassTotals(head)
    for part in engine.class_sums(theta, rows):
        if not head.takes(part.label, part.features):
            raise BadInputError("the model's features are not finite or very large; choose another model or pooling")
        totals.add(part.label, part.rows, part.features)
    return head_from_means(theta, head, totals)
