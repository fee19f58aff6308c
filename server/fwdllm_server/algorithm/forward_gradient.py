"""The algorithm object: it knows scalars and seeds, not where devices are (DESIGN §2, invariant 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, cos, pi
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np

from fwdllm_common.estimator import Scalar, coefficients
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.layout import Block, Float32Vector, Layout
from fwdllm_common.ledger import BlockUpdate, LedgerEntry, RunHeader
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_common.replay import ModelState
from fwdllm_server.algorithm import complete
from fwdllm_server.algorithm.agreement import (
    Reputation,
    Reputations,
    contradicting,
    counted,
    exclude_outliers,
    update_reputations,
)
from fwdllm_server.algorithm.auto import measurement
from fwdllm_server.algorithm.complete import Span
from fwdllm_server.algorithm.estimates import LastEstimates
from fwdllm_server.algorithm.pacing import Verdict, relative_variance, split_half_variance
from fwdllm_server.algorithm.plan import BlockPlan, SeedRange, seed_ranges
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
_SEEDS_OF_A_BLOCK = 1 << 24

Measured: TypeAlias = Sequence[Scalar] | Sequence[Span]
"""What came back for a block: scalars, or of orthogonal directions spans of them."""


class ForwardGradient:
    """One job's forward-gradient descent.

    A round is ``plan`` → scalars from devices → ``judge`` → perhaps ``extend`` and more scalars → ``update``.

    :param shares: what a direction of each block costs on one row, as a share of a pass; a block that is not named is
        taken for a whole one.
    :raises BadInputError: the job asks for a block or a tensor that the model does not have.
    """

    def __init__(
        self, spec: JobSpec, header: RunHeader, layout: Layout, shares: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._spec = spec
        self._header = header
        self._layout = layout
        self._shares = shares
        self.estimate = LastEstimates()
        self._judged: dict[str, Block] = {
            name: layout.part(name, section.pacing_tensor) for name, section in spec.blocks.items()
        }

    def plan(
        self,
        round_number: int,
        state: ModelState,
        last: LedgerEntry | None,
        dropout_rate: float = 0.0,
        rows_at_hand: int = 0,
    ) -> tuple[BlockPlan, ...]:
        """Return what to ask in a round at θ: a plan for each block that takes part.

        ``last`` is the entry that led to ``state``. Seeds follow the number of the round, schedules the number of the
        step: an abandoned round costs no step. ``drop_out`` is the part of the devices that is expected to vanish,
        ``rows_at_hand`` the most rows that one of them has, 0 if that is not known.
        """
        step, rounds = state.version + 1, self._spec.rounds
        taking_part = [
            (index, block, section)
            for index, (name, block) in enumerate(self._layout.blocks.items())
            if (section := self._spec.blocks.get(name)) is not None and _takes_part(section, step)  # type: ignore[call-overload]
        ]
        plans = []
        for index, block, section in taking_part:
            first = _first_seed(round_number, index)
            sizes = self._sizes(block, section, step, rows_at_hand)
            common = BlockPlan(
                block=block.name,
                ranges=(SeedRange(first, _SEEDS_OF_A_BLOCK),),
                wanted=sizes.directions,
                epsilon=self._spec.perturbation.epsilon_at(state.theta[block.slice]),
                batch_size=sizes.batch_size,
                learning_rate=section.learning_rate * self._schedule(step),
                central=self._spec.perturbation.difference == "central",
                devices_per_direction=section.devices_per_direction,
            )
            directions = self._header.directions_of(block)
            if isinstance(directions, OrthogonalDirections):
                plan = common.in_frames(directions.order, sizes.per_device, rounds.max_devices)
            else:
                count = self._assigned(sizes.directions, dropout_rate)
                plan = replace(common, ranges=seed_ranges(self._seeds(block, first, count, state, last)))
            plans.append(plan)
        return tuple(plans)

    def _sizes(self, block: Block, section: BlockSection, step: int, rows_at_hand: int) -> _Sizes:
        """How many directions and rows a block's round has, as the job says or as they follow from its budgets."""
        rounds = self._spec.rounds
        fixed_rows = None if section.batch_size == "auto" else section.batch_size
        share = self._shares.get(block.name, 1.0)
        found = measurement(block.size, share, rounds, step, rows_at_hand, fixed_rows)
        if section.directions == "auto":
            wanted = min(found.directions * rounds.max_devices, MAX_DIRECTIONS)
            return _Sizes(wanted, found.directions, found.rows)
        return _Sizes(section.directions, 0, found.rows)

    def judge(self, plan: BlockPlan, scalars: Measured, recent: Scales) -> Verdict:
        """Whether the scalars of one block suffice, or another step of directions is worth its cost."""
        section = self._section(plan.block)
        update = self._update(plan, scalars, recent)
        statistic = _STATISTICS[section.pacing]
        judged = self._judged[plan.block]
        directions = self._header.directions_of(self._layout.block(plan.block))
        variance = statistic(directions, update.seeds, update.coefficients, judged, self.estimate)
        threshold = section.variance_threshold
        if variance <= threshold:
            reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is within {threshold:.3g}"
            return Verdict(True, variance, threshold, reason)
        if plan.wanted >= self._most(plan):
            reason = f"{plan.block}: {len(update.seeds)} directions, the most allowed"
            return Verdict(True, variance, threshold, reason)
        reason = f"{plan.block}: {section.pacing} variance {variance:.3g} is above {threshold:.3g}"
        return Verdict(False, variance, threshold, reason)

    def step_size(self, plan: BlockPlan) -> int:
        """How many directions a round begins with in the plan's block, and adds with each step."""
        directions = self._section(plan.block).directions
        return plan.wanted if directions == "auto" else directions

    def extend(
        self, plan: BlockPlan, state: ModelState, last: LedgerEntry | None, dropout_rate: float = 0.0
    ) -> BlockPlan:
        """Return the plan with one more step of directions."""
        wanted = min(plan.wanted + self.step_size(plan), self._most(plan))
        missing = self._assigned(wanted, dropout_rate) - len(plan.seeds)
        block = self._layout.block(plan.block)
        return plan.extended(wanted, self._seeds(block, plan.end_seed, missing, state, last) if missing > 0 else ())

    def update(
        self,
        plans: Sequence[BlockPlan],
        scalars: Mapping[str, Measured],
        recent: Scales,
        reputations: Reputations = MappingProxyType({}),
    ) -> tuple[BlockUpdate, ...]:
        """Return the round's ledger updates; the same whatever the order in which the scalars came.

        A block of which no direction is measured has none. ``recent`` are the scales as of the last committed round,
        ``standings`` those of the devices as of this one.
        """
        counting = {plan.block: _believed(scalars[plan.block], reputations) for plan in plans}
        return tuple(
            self._update(plan, counting[plan.block], recent)
            for plan in plans
            if _is_measured(counting[plan.block], plan.devices_per_direction)
        )

    def reputations(
        self,
        plans: Sequence[BlockPlan],
        scalars: Mapping[str, Measured],
        state: ModelState,
        last: LedgerEntry | None,
        before: Reputations,
    ) -> Reputations:
        """Return the reputations as of a round, of the devices that vote in it.

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
                directions, measured = self._header.directions_of(block), scalars[plan.block]
                if isinstance(directions, OrthogonalDirections):
                    found |= counted(complete.votes(directions, _spans(measured), line), now)
                else:
                    found |= update_reputations(directions, _single(measured), line, block, now)
        return found

    def scales(self, plans: Sequence[BlockPlan], scalars: Mapping[str, Measured], recent: Scales) -> Scales:
        """Return the scales as of a round that commits these scalars."""
        now = {}
        for plan in plans:
            measured = scalars[plan.block]
            if measured and plan.order:
                now[plan.block] = complete.scale_of(_spans(measured))
            elif merged := by_direction(_single(measured), plan.devices_per_direction):
                now[plan.block] = scale_of(merged)
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
        """Return what directions are compared with, float32 ``[block size]``; None while there is nothing yet."""
        if kind == "momentum":
            moment = state.optimizer[block.name].first
            return moment if moment.any() else None
        for update in last.updates if last is not None else ():
            if update.block == block.name:
                return self.estimate(self._header.directions_of(block), update.seeds, update.coefficients, block)
        return None

    def _update(self, plan: BlockPlan, scalars: Measured, recent: Scales) -> BlockUpdate:
        if plan.order:
            seeds, found = complete.coefficients(self._restrained(plan.block, _spans(scalars), recent))
        else:
            ordered = self._ordered(plan, _single(scalars), recent)
            seeds, found = np.array([scalar.seed for scalar in ordered], dtype=np.uint64), coefficients(ordered)
        return BlockUpdate(plan.block, seeds, found, np.float32(plan.learning_rate), packed=bool(plan.order))

    def _ordered(self, plan: BlockPlan, scalars: Sequence[Scalar], recent: Scales) -> Sequence[Scalar]:
        """One scalar for each direction, by ascending seed, as large as it may be."""
        ordered = by_direction(scalars, plan.devices_per_direction)
        if not self._spec.robust.clip:
            return ordered
        scale = running_scale(recent.get(plan.block, ()), scale_of(ordered))
        if plan.devices_per_direction == 1:
            ordered = rescale_devices(ordered, scale)
        return clipped(ordered, int(self._spec.robust.clip * scale))

    def _restrained(self, block: str, spans: Sequence[Span], recent: Scales) -> Sequence[Span]:
        if not self._spec.robust.clip:
            return spans
        scale = running_scale(recent.get(block, ()), complete.scale_of(spans))
        return complete.restrained(spans, scale, self._spec.robust.clip)

    def _most(self, plan: BlockPlan) -> int:
        """Directions with which a round ends, whatever the variance."""
        section = self._section(plan.block)
        return plan.wanted if section.directions == "auto" else section.max_directions

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


class _Sizes(NamedTuple):
    """Directions of a round, of each device where it has its own, and rows."""

    directions: int
    per_device: int
    batch_size: int


def measured_by_device(collected: Iterable[Measured]) -> Counter[str]:
    """How many scalars of some blocks each device has measured."""
    found: Counter[str] = Counter()
    for measured in collected:
        for each in measured:
            found[each.device] += len(each) if isinstance(each, Span) else 1
    return found


def _spans(measured: Measured) -> Sequence[Span]:
    return [each for each in measured if isinstance(each, Span)]


def _single(measured: Measured) -> Sequence[Scalar]:
    return [each for each in measured if isinstance(each, Scalar)]


def _believed(measured: Measured, reputations: Reputations) -> Measured:
    spans = _spans(measured)
    return (
        complete.without(spans, contradicting(reputations))
        if spans
        else exclude_outliers(_single(measured), reputations)
    )


def _is_measured(measured: Measured, devices: int) -> bool:
    return bool(_spans(measured)) or directions_measured(_single(measured), devices) > 0


def _takes_part(section: BlockSection, step: int) -> bool:
    return step >= section.first_round and (step - section.first_round) % section.every == 0


def _first_seed(round_number: int, block_index: int) -> int:
    # Never reused within a run: the round in the upper half, then the block, then up to 2²⁴ candidates.
    return round_number << 32 | block_index << 24
