"""The algorithm object: it knows scalars and seeds, not where devices are (DESIGN §2, invariant 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, cos, pi
from types import MappingProxyType

import numpy as np

from fwdllm_common.estimator import Scalar, coefficients
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.layout import Block, Float32Vector, Layout
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm.agreement import Reputation, Reputations, exclude_outliers, update_reputations
from fwdllm_server.algorithm.estimates import LastEstimates
from fwdllm_server.algorithm.pacing import Verdict, relative_variance, split_half_variance
from fwdllm_server.algorithm.plan import BlockPlan, seed_ranges
from fwdllm_server.algorithm.robust import (
    RECENT,
    Scales,
    by_direction,
    clipped,
    directions_measured,
    rescale_devices,
    running_scale,
    scale_of,
)
from fwdllm_server.algorithm.sampling import nearest
from fwdllm_server.config.job import BlockSection, JobSpec

_STATISTICS = {"relative": relative_variance, "absolute": split_half_variance}


class ForwardGradient:
    """One job's forward-gradient descent.

    A round is ``plan`` → scalars from devices → ``judge`` → perhaps ``extend`` and more scalars → ``update``.

    :raises BadInputError: the job asks for a block or a tensor that the model does not have.
    """

    def __init__(self, spec: JobSpec, header: RunHeader, layout: Layout) -> None:
        self._spec = spec
        self._header = header
        self._layout = layout
        self.estimate = LastEstimates()
        self._judged: dict[str, Block] = {
            name: layout.part(name, section.pacing_tensor) for name, section in spec.blocks.items()
        }

    def plan(
        self, round_number: int, state: ModelState, last: LedgerEntry | None, dropout_rate: float = 0.0
    ) -> tuple[BlockPlan, ...]:
        """What to ask in a round at θ: a plan for each block that takes part.

        ``last`` is the entry that led to ``state``. Seeds follow the number of the round, schedules the number of the
        step: an abandoned round costs no step. ``drop_out`` is the part of the devices that is expected to vanish.
        """
        step = state.version + 1
        return tuple(
            BlockPlan(
                block=name,
                ranges=seed_ranges(
                    self._seeds(
                        block,
                        _first_seed(round_number, index),
                        self._assigned(section.directions, dropout_rate),
                        state,
                        last,
                    )
                ),
                wanted=section.directions,
                epsilon=self._spec.perturbation.epsilon_at(state.theta[block.slice]),
                batch_size=section.batch_size,
                learning_rate=section.learning_rate * self._schedule(step),
                central=self._spec.perturbation.difference == "central",
                devices_per_direction=section.devices_per_direction,
            )
            for index, (name, block) in enumerate(self._layout.blocks.items())
            if (section := self._spec.blocks.get(name)) is not None and _takes_part(section, step)  # type: ignore[call-overload]
        )

    def judge(self, plan: BlockPlan, scalars: Sequence[Scalar], recent: Scales) -> Verdict:
        """Whether the scalars of one block suffice, or another step of directions is worth its cost."""
        section = self._section(plan.block)
        update = self._update(plan, scalars, recent)
        statistic = _STATISTICS[section.pacing]
        judged = self._judged[plan.block]
        variance = statistic(self._header.directions, update.seeds, update.coefficients, judged, self.estimate)
        threshold = section.variance_threshold
        if variance <= threshold:
            reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is within {threshold:.3g}"
            return Verdict(True, variance, threshold, reason)
        if plan.wanted >= section.max_directions:
            reason = f"{plan.block}: {len(update.seeds)} directions, the most allowed"
            return Verdict(True, variance, threshold, reason)
        reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is above {threshold:.3g}"
        return Verdict(False, variance, threshold, reason)

    def step_size(self, plan: BlockPlan) -> int:
        """How many directions a round begins with in the plan's block, and adds with each step."""
        return self._section(plan.block).directions

    def extend(
        self, plan: BlockPlan, state: ModelState, last: LedgerEntry | None, dropout_rate: float = 0.0
    ) -> BlockPlan:
        """The plan with one more step of directions."""
        wanted = min(plan.wanted + self.step_size(plan), self._section(plan.block).max_directions)
        missing = self._assigned(wanted, dropout_rate) - len(plan.seeds)
        block = self._layout.block(plan.block)
        return plan.extended(wanted, self._seeds(block, plan.end_seed, missing, state, last) if missing > 0 else ())

    def update(
        self,
        plans: Sequence[BlockPlan],
        scalars: Mapping[str, Sequence[Scalar]],
        recent: Scales,
        reputations: Reputations = MappingProxyType({}),
    ) -> tuple[BlockUpdate, ...]:
        """The round's ledger updates; the same whatever the order in which the scalars came.

        A block of which no direction is measured has none. ``recent`` are the scales as of the last committed round,
        ``standings`` those of the devices as of this one.
        """
        counting = {plan.block: exclude_outliers(scalars[plan.block], reputations) for plan in plans}
        return tuple(
            self._update(plan, counting[plan.block], recent)
            for plan in plans
            if directions_measured(counting[plan.block], plan.devices_per_direction)
        )

    def reputations(
        self,
        plans: Sequence[BlockPlan],
        scalars: Mapping[str, Sequence[Scalar]],
        state: ModelState,
        last: LedgerEntry | None,
        before: Reputations,
    ) -> Reputations:
        """The standings as of a round, of the devices that vote in it.

        They vote where each direction is measured once; the middle of several devices needs no vote. ``last`` is the
        entry that led to ``state``.
        """
        found: dict[str, Reputation] = {}
        for plan in plans:
            if not self._spec.robust.clip or plan.devices_per_direction > 1:
                continue
            block = self._layout.block(plan.block)
            line = self._reference(block, state, last, "momentum")
            if line is None:
                line = self._reference(block, state, last, "gradient")
            if line is not None:
                now = {**before, **found}
                found |= update_reputations(self._header.directions, scalars[plan.block], line, block, now)
        return found

    def scales(self, plans: Sequence[BlockPlan], scalars: Mapping[str, Sequence[Scalar]], recent: Scales) -> Scales:
        """The scales as of a round that commits these scalars."""
        found = {plan.block: by_direction(scalars[plan.block], plan.devices_per_direction) for plan in plans}
        now = {block: scale_of(merged) for block, merged in found.items() if merged}
        return {**recent, **{block: [*recent.get(block, ()), scale][-RECENT:] for block, scale in now.items()}}

    def _seeds(
        self, block: Block, first: int, count: int, state: ModelState, last: LedgerEntry | None
    ) -> Sequence[int]:
        """``count`` seeds from ``first`` on: the next ones, or the most promising of more."""
        sampling = self._section(block.name).sampling
        if sampling is None or (state.version + 1) % sampling.every:
            return range(first, first + count)
        reference = self._reference(block, state, last, sampling.reference)
        if reference is None:
            return range(first, first + count)
        candidates = range(first, first + ceil(round(count / sampling.keep, 6)))
        parts = [block.slice] if sampling.scope == "vector" else self._layout.tensors_of(block.name)
        return nearest(self._header.directions, candidates, count, reference, parts, sampling.cosine == "absolute")

    def _reference(self, block: Block, state: ModelState, last: LedgerEntry | None, kind: str) -> Float32Vector | None:
        """What directions are compared with, float32 ``[block size]``; None while there is nothing yet."""
        if kind == "momentum":
            moment = state.optimizer[block.name].first
            return moment if moment.any() else None
        for update in last.updates if last is not None else ():
            if update.block == block.name:
                return self.estimate(self._header.directions, update.seeds, update.coefficients, block)
        return None

    def _update(self, plan: BlockPlan, scalars: Sequence[Scalar], recent: Scales) -> BlockUpdate:
        ordered = by_direction(scalars, plan.devices_per_direction)
        if self._spec.robust.clip:
            scale = running_scale(recent.get(plan.block, ()), scale_of(ordered))
            if plan.devices_per_direction == 1:
                ordered = rescale_devices(ordered, scale)
            ordered = clipped(ordered, int(self._spec.robust.clip * scale))
        return BlockUpdate(
            block=plan.block,
            seeds=np.array([scalar.seed for scalar in ordered], dtype=np.uint64),
            coefficients=coefficients(ordered),
            learning_rate=np.float32(plan.learning_rate),
        )

    def _section(self, block: str) -> BlockSection:
        return self._spec.blocks[block]  # type: ignore[index]

    def _assigned(self, wanted: int, dropout_rate: float) -> int:
        # Rounded first, so that 1.1 times 10 is 11; an update holds no more than MAX_DIRECTIONS.
        return min(ceil(round(wanted * self._spec.rounds.over_assigned(dropout_rate), 6)), MAX_DIRECTIONS)

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
    # Never reused within a run: the round in the upper half, then the block, then up to 2²⁴ candidates.
    return round_number << 32 | block_index << 24
