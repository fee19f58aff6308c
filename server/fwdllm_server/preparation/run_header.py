"""The header of a run: everything that stays the same from its first version to its last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import RunHeader
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import theta_digest
from fwdllm_server.algorithm.auto import is_worth_a_frame
from fwdllm_server.config.job import JobSpec


def run_header(
    spec: JobSpec, layout: Layout, theta: Float32Vector, shares: Mapping[str, float] = MappingProxyType({})
) -> RunHeader:
    """Return the header of a run that starts from ``theta``, float32 ``[d]``.

    ``shares`` are those of :class:`fwdllm_server.algorithm.Run`.

    :raises BadInputError: the job wants differential privacy, and devices cannot measure a block's gradient.
    """
    orthogonal = tuple(
        name
        for name, block in layout.blocks.items()
        if (section := spec.blocks.get(name)) is not None  # type: ignore[call-overload]
        and section.directions == "auto"
        and is_worth_a_frame(block.size, shares.get(name, 1.0), spec.rounds, spec.privacy.secure_aggregation)
    )
    if unbounded := sorted(set(spec.blocks) - set(orthogonal)) if spec.privacy.epsilon is not None else []:
        block = layout.block(unbounded[0])
        raise BadInputError(
            f"the block {block.name!r} has {block.size:,} weights, more than a device can measure by orthogonal "
            "directions, so that nothing bounds its gradient and differential privacy is not possible; raise [rounds] "
            "passes_budget and bytes_budget, train a smaller block, or leave [privacy] epsilon out"
        )
    return RunHeader(
        directions=Directions(run_key(spec.job.seed), spec.perturbation.distribution),
        layout_digest=layout.digest,
        initial_theta_digest=theta_digest(theta),
        optimizer=OptimizerSettings(
            spec.optimizer.kind,
            spec.optimizer.beta1,
            spec.optimizer.beta2,
            spec.optimizer.epsilon,
            spec.optimizer.weight_decay,
        ),
        orthogonal=orthogonal,
    )


def run_key(seed: int) -> int:
    """Return the 64-bit key that all directions of a run with this ``seed`` share."""
    digest = hashlib.sha256(b"fwdllm run key 1\0" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")
