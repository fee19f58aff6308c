"""Draw the rows that candidates are measured on, from the job's held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.evaluation import check_held_out, held_out_source

_MOST_HEAD_ROWS = 512
_SAMPLE_TEXTS = 64
_LEAST_CLASSES = 2


@dataclass(frozen=True, eq=False)
class PublicRows:
    """Disjoint rows of ``source``, as ascending int64 indices: ``gradient`` for gradients, ``head`` for the head.

    ``texts`` are some texts of the latter, for PEFT methods that need activations.
    """

    source: DataSource
    gradient: NDArray[np.int64]
    head: NDArray[np.int64]
    texts: Sequence[str]

    @classmethod
    def draw(cls, spec: JobSpec, base_folder: Path, count: int, seed: int) -> PublicRows:
        """Draw ``count`` gradient rows and the rows of the head. They depend on ``seed`` and the file alone.

        :raises BadInputError: the file is missing or invalid, or has too few rows or classes.
        """
        check_held_out(spec, base_folder)
        source = held_out_source(spec, base_folder)
        assert isinstance(source, DataSource), "only classification is profiled"
        rows = list(source.rows())
        if len(rows) < 2 * count:
            raise BadInputError(
                f"{source.path}: {len(rows)} rows are too few for gradients on {count} of them and a head from at "
                f"least as many others; lower --rows to {max(1, len(rows) // 2)} or add rows"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(rows))
        gradient, head = np.sort(order[:count]), np.sort(order[count : count + max(_MOST_HEAD_ROWS, count)])
        if len({rows[index].label for index in head}) < _LEAST_CLASSES:
            raise BadInputError(f"{source.path}: a head needs rows of two classes at least; add some")
        return cls(source, gradient, head, [rows[index].text for index in head[:_SAMPLE_TEXTS]])
