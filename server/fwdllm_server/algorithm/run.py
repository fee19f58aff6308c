"""A run as the method sees it: what the plans, verdicts and updates of all its rounds have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fwdllm_common.layout import Block, Float32Vector, Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.estimates import LastEstimates
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.job_sections import BlockSection

Reference: TypeAlias = Literal["gradient", "momentum"]


@dataclass(frozen=True, eq=False)
class Run:
    """The job's specification, the run's header (which defines v of a seed) and the layout of θ.

    ``shares`` maps blocks to the cost of a direction on one row, as a share of a pass; a block that it does not name
    costs a whole pass. ``estimate`` computes ĝ, equation (3), and keeps the last one of each block.

    :raises BadInputError: the job asks for a block or a tensor that the model does not have.
    """

    spec: JobSpec
    header: RunHeader
    layout: Layout
    shares: Mapping[str, float] = field(default_factory=dict)
    estimate: LastEstimates = field(default_factory=LastEstimates)

    def __post_init__(self) -> None:
        for name in self.spec.blocks:
            self.judged_part(name)

    def section(self, block: str) -> BlockSection:
        """Return the job's section of a block that takes part in rounds."""
        return self.spec.blocks[block]  # type: ignore[index]

    def judged_part(self, block: str) -> Block:
        """Return the coordinates that pacing judges, (13): those of ``pacing_tensor``, or the whole block."""
        return self.layout.part(block, self.section(block).pacing_tensor)


def reference(
    run: Run, block: Block, state: ModelState, last: LedgerEntry | None, kind: Reference
) -> Float32Vector | None:
    """Return what directions and scalars are compared with, float32 ``[block size]``; None while there is nothing yet.

    It is the optimiser's momentum m at ``state``, or ĝ of the round before, equation (3) on the seeds and coefficients
    of ``last``, the entry that led to ``state``.
    """
    if kind == "momentum":
        moment = state.optimizer[block.name].first
        return moment if moment.any() else None
    for update in last.updates if last is not None else ():
        if update.block == block.name:
            return run.estimate(run.header.directions_of(block), update.seeds, update.coefficients, block)
    return None
