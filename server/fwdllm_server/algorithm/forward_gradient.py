"""The algorithm object: it knows scalars and seeds, not where devices are (DESIGN §2, invariant 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, cos, pi

import numpy as np

from fwdllm_common.estimator import Scalar, coefficients
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import BlockUpdate, RunHeader
from fwdllm_server.algorithm.pacing import Verdict, relative_variance, split_half_variance
from fwdllm_server.algorithm.plan import BlockPlan
from fwdllm_server.job import BlockSection, JobSpec

_STATISTICS = {"relative": relative_variance, "absolute": split_half_variance}


class ForwardGradient:
    """One job's forward-gradient descent.

    A round is ``plan`` → scalars from devices → ``judge`` → perhaps ``extend`` and more scalars → ``update``.

    :raises BadInputError: the job asks for a block that the model does not have.
    """

    def __init__(self, spec: JobSpec, header: RunHeader, layout: Layout) -> None:
        for name in spec.blocks:
            layout.block(name)
        self._spec = spec
        self._header = header
        self._layout = layout

    def plan(self, round_number: int, version: int, theta: Float32Vector) -> tuple[BlockPlan, ...]:
        """What to ask in a round at θ, float32 ``[d]``, of this version: a plan for each block that takes part.

        Seeds follow the number of the round, schedules the number of the step: an abandoned round costs no step.
        """
        step = version + 1
        return tuple(
            BlockPlan(
                block=name,
                first_seed=_first_seed(round_number, index),
                wanted=section.directions,
                assigned=self._assigned(section.directions),
                epsilon=self._epsilon(theta[self._layout.blocks[name].slice]),
                batch_size=section.batch_size,
                learning_rate=section.learning_rate * self._schedule(step),
            )
            for index, name in enumerate(self._layout.blocks)
            if (section := self._spec.blocks.get(name)) is not None and _takes_part(section, step)  # type: ignore[call-overload]
        )

    def judge(self, plan: BlockPlan, scalars: Sequence[Scalar]) -> Verdict:
        """Whether the scalars of one block suffice, or another step of directions is worth its cost."""
        section = self._section(plan)
        update = self._update(plan, scalars)
        block = self._layout.blocks[plan.block]
        variance = _STATISTICS[section.pacing](self._header.run_key, update.seeds, update.coefficients, block)
        threshold = section.variance_threshold
        if variance <= threshold:
            reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is within {threshold:.3g}"
            return Verdict(True, variance, threshold, reason)
        if plan.wanted >= section.max_directions:
            reason = f"{plan.block}: {len(scalars)} directions, the most allowed"
            return Verdict(True, variance, threshold, reason)
        reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is above {threshold:.3g}"
        return Verdict(False, variance, threshold, reason)

    def step_size(self, plan: BlockPlan) -> int:
        """How many directions a round begins with in the plan's block, and adds with each step."""
        return self._section(plan).directions

    def extend(self, plan: BlockPlan) -> BlockPlan:
        """The plan with one more step of directions."""
        wanted = min(plan.wanted + self.step_size(plan), self._section(plan).max_directions)
        return plan.extended(wanted, max(plan.assigned, self._assigned(wanted)))

    def update(self, plans: Sequence[BlockPlan], scalars: Mapping[str, Sequence[Scalar]]) -> tuple[BlockUpdate, ...]:
        """The round's ledger updates; the same whatever the order in which the scalars came."""
        return tuple(self._update(plan, scalars[plan.block]) for plan in plans)

    def _update(self, plan: BlockPlan, scalars: Sequence[Scalar]) -> BlockUpdate:
        ordered = sorted(scalars, key=lambda scalar: scalar.seed)
        return BlockUpdate(
            block=plan.block,
            seeds=np.array([scalar.seed for scalar in ordered], dtype=np.uint64),
            coefficients=coefficients(ordered),
            learning_rate=np.float32(plan.learning_rate),
        )

    def _section(self, plan: BlockPlan) -> BlockSection:
        return self._spec.blocks[plan.block]  # type: ignore[index]

    def _assigned(self, wanted: int) -> int:
        # Rounded first, so that 1.1 times 10 is 11; an update holds no more than MAX_DIRECTIONS.
        return min(ceil(round(wanted * self._spec.rounds.over_assign, 6)), MAX_DIRECTIONS)

    def _epsilon(self, theta: Float32Vector) -> float:
        rms = float(np.sqrt(np.mean(np.square(theta, dtype=np.float64))))
        return max(self._spec.perturbation.epsilon, self._spec.perturbation.relative * rms)

    def _schedule(self, step: int) -> float:
        progress = (step - 1) / self._spec.rounds.count
        if self._spec.optimizer.schedule == "linear":
            return 1 - progress
        if self._spec.optimizer.schedule == "cosine":
            return (1 + cos(pi * progress)) / 2
        return 1.0


def _takes_part(section: BlockSection, step: int) -> bool:
    return step >= section.first_round and (step - section.first_round) % section.every == 0


def _first_seed(round_number: int, block_index: int) -> int:
    # Never reused within a run: the round in the upper half, then the block, then up to 2²⁴ directions.
    return round_number << 32 | block_index << 24
