"""Draw the rows that candidates are trained and compared on, from the job's held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.data import Source
from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.evaluation import check_held_out, held_out_source

_MOST_VALIDATION = 1024
_SAMPLE_TEXTS = 512


@dataclass(frozen=True, eq=False)
class PublicRows:
    """Disjoint rows of ``source``, as ascending int64 indices. ``texts`` are those of some of them, without labels."""

    source: Source
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    texts: Sequence[str]

    @classmethod
    def draw(cls, spec: JobSpec, base_folder: Path, count: int, seed: int) -> PublicRows:
        """Draw ``count`` rows to train on, and others to compare by. They depend on ``seed`` and the file alone.

        :raises BadInputError: the file is missing or invalid, or has too few rows.
        """
        check_held_out(spec, base_folder)
        source = held_out_source(spec, base_folder)
        texts = source.texts()
        if len(texts) < 2 * count:
            raise BadInputError(
                f"{source.path}: {len(texts)} rows are too few to train on {count} of them and compare by as many "
                f"others; lower --rows to {max(1, len(texts) // 2)} or add rows"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(texts))
        validation = order[count : count + max(_MOST_VALIDATION, count)]
        return cls(source, np.sort(order[:count]), np.sort(validation), [texts[row] for row in order[:_SAMPLE_TEXTS]])
