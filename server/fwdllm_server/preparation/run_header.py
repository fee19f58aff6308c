"""The header of a run: everything that stays the same from its first version to its last."""

from __future__ import annotations

import hashlib

from fwdllm_common.directions import Directions
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import RunHeader
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.replay import theta_digest
from fwdllm_server.config.job import JobSpec


def run_header(spec: JobSpec, layout: Layout, theta: Float32Vector) -> RunHeader:
    """Return the header of a run that starts from ``theta``, float32 ``[d]``."""
    return RunHeader(
        directions=Directions(run_key(spec.job.seed), spec.perturbation.distribution),
        layout_digest=layout.digest,
        initial_theta_digest=theta_digest(theta),
        optimizer=OptimizerSettings(
            spec.optimizer.kind, spec.optimizer.beta1, spec.optimizer.beta2, spec.optimizer.epsilon
        ),
    )


def run_key(seed: int) -> int:
    """Return the 64-bit key that all directions of a run with this ``seed`` share."""
    digest = hashlib.sha256(b"fwdllm run key 1\0" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")
