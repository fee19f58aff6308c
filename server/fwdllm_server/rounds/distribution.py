"""Divide directions among devices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from math import ceil, floor
from random import Random

import structlog

from fwdllm.v1 import device_pb2
from fwdllm_common.seeds import ranges_of, to_messages
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.rounds.load import MOST_OF_ROUND, Load
from fwdllm_server.store import assignments, participation

_log = structlog.get_logger()


@dataclass(frozen=True)
class Share:
    """Directions of a block to divide, by ascending seed. A seed that several devices are to measure is repeated.

    A device measures a seed at most once. ``had`` maps devices to the seeds that they have measured already.
    """

    plan: BlockPlan
    seeds: Sequence[int]
    had: Mapping[str, Set[int]] = field(default_factory=dict)

    def possible(self, device: str) -> int:
        """Return the number of directions that a device can still measure."""
        return len(self._directions - self.had[device] if device in self.had else self._directions)

    def parts(self, devices: Sequence[str], counts: Sequence[int]) -> list[list[int]]:
        """Return ascending seeds for each device: ``counts`` of them, or fewer if no more are left for it."""
        left = deque(self.seeds)
        found = []
        for device, count in zip(devices, counts, strict=True):
            own = set(self.had.get(device, ()))
            part: list[int] = []
            passed_over: list[int] = []
            while left and len(part) < count:
                seed = left.popleft()
                (passed_over if seed in own else part).append(seed)
                own.add(seed)
            left.extendleft(reversed(passed_over))
            found.append(sorted(part))
        return found

    @cached_property
    def _directions(self) -> Set[int]:
        return set(self.seeds)


@dataclass(frozen=True)
class Frames:
    """Frames of a block's orthogonal directions, one for each device, from the frame ``first`` on."""

    plan: BlockPlan
    first: int = 0

    def task(self, place: int, part: float) -> device_pb2.DirectionTask:
        """Return the part of a frame for the device at this place among the others; at least one direction."""
        frame = self.plan.frame(self.first + place)
        own = frame[: max(1, floor(len(frame) * part))]
        return device_pb2.DirectionTask(
            block=self.plan.block,
            seeds=to_messages([own]),
            epsilon=self.plan.epsilon,
            batch_size=self.plan.batch_size,
            central=self.plan.central,
            same_rows=True,
            packed=True,
        )


def hand_out(
    context: RoundContext,
    shares: Sequence[Share],
    devices: Sequence[str],
    load: Load,
    within_s: float,
    most: Callable[[BlockPlan, str], int] = lambda plan, _device: len(plan.seeds),
    frames: Sequence[Frames] = (),
) -> Mapping[str, int]:
    """Offer directions to devices in proportion to their speeds. A device whose part is empty gets no assignment.

    A device's part of a block is bounded by ``most``, by half of the block if there are several devices, and by what it
    can compute in ``within_s`` seconds (one direction at least). Directions above all bounds are not offered. Each
    device gets one of the ``frames``, as far as there are any.

    :param most: returns the largest number of directions of a plan for a device.
    :returns: the number of directions of each device that has an assignment.
    """
    passes = sum(len(share.seeds) * load.costs[share.plan.block] for share in shares)
    passes += sum(each.plan.per_device * load.costs[each.plan.block] for each in frames)
    manageable = [load.manageable(device, passes, within_s) for device in devices]
    tasks: dict[str, list[device_pb2.DirectionTask]] = {device: [] for device in devices}
    for share in shares:
        bounds = [
            min(
                most(share.plan, device),
                ceil(len(share.seeds) * (MOST_OF_ROUND if len(devices) > 1 else 1)),
                max(1, floor(len(share.seeds) * part)),
                share.possible(device),
            )
            for device, part in zip(devices, manageable, strict=True)
        ]
        counts = divide(len(share.seeds), [load.speeds[device] for device in devices], bounds, _turn(context))
        for device, seeds in zip(devices, share.parts(devices, counts), strict=True):
            if seeds:
                tasks[device].append(_task(share.plan, seeds))
    for each in frames:  # after all others: indices of scalars that are not packed begin at 0
        for place, (device, part) in enumerate(zip(devices, manageable, strict=True)):
            if each.first + place < each.plan.frames:
                tasks[device].append(each.task(place, part))
    return _offer(context, {device: tasks[device] for device in devices if tasks[device]}, load)


def hand_out_to_all(context: RoundContext, devices: Sequence[str], load: Load) -> Mapping[str, int]:
    """Offer all directions of the plan to each of the devices; returns the number of directions of each."""
    tasks = [_task(plan, plan.seeds, same_rows=bool(plan.order)) for plan in context.round.plan]
    return _offer(context, dict.fromkeys(devices, tasks), load)


def _offer(
    context: RoundContext, offered: Mapping[str, Sequence[device_pb2.DirectionTask]], load: Load
) -> Mapping[str, int]:
    rounds = context.job.spec.rounds
    every = rounds.federated_evaluate_every
    evaluate = every > 0 and (context.round.version + 1) % every == 0
    work = assignments.of_round(context.connection, context.job.id, context.round.number) if evaluate else ()
    evaluating = {assignment.device_id for assignment in work}  # a device evaluates its rows once a round
    for device, own in offered.items():
        assignments.offer(
            context.connection,
            context.job.id,
            context.round.number,
            device,
            own,
            evaluate=evaluate and device not in evaluating,
            expires_at=context.now + rounds.assignment_s,
            passes=sum(load.costs[task.block] * assignments.directions_of([task]) for task in own),
        )
        context.presence.leave(device)
    participation.add(context.connection, list(offered), context.now)
    divided = {device: assignments.directions_of(own) for device, own in offered.items()}
    _log.debug("directions divided", job=context.job.name, round=context.round.number, directions=divided)
    return divided


def divide(total: int, speeds: Sequence[float], most: Sequence[int], turn: float) -> list[int]:
    """Divide ``total`` in proportion to ``speeds``. No part exceeds its ``most``; the rest is not divided.

    A part is its exact share rounded up or down. ``turn``, in [0, 1), decides which parts are rounded up. The average
    over uniform turns is the exact share, so that even the slowest device gets a direction now and then, and its speed
    is measured again.
    """
    shares = [Fraction(0)] * len(speeds)
    left, together = Fraction(total), sum(map(Fraction, speeds), Fraction(0))
    for index in sorted(range(len(speeds)), key=lambda index: most[index] / Fraction(speeds[index])):
        speed = Fraction(speeds[index])
        shares[index] = min(Fraction(most[index]), left * speed / together)
        left, together = left - shares[index], together - speed
    ends = [floor(end + Fraction(turn)) for end in accumulate(shares)]
    return [end - start for start, end in pairwise([0, *ends])]


def _turn(context: RoundContext) -> float:
    # A coordinator that is restarted divides in the same way.
    return Random(f"{context.job.header.directions.run_key}/{context.round.number}/turn").random()  # noqa: S311 - not a secret


def _task(plan: BlockPlan, seeds: Sequence[int], same_rows: bool = False) -> device_pb2.DirectionTask:
    return device_pb2.DirectionTask(
        block=plan.block,
        seeds=to_messages(ranges_of(seeds)),
        epsilon=plan.epsilon,
        batch_size=plan.batch_size,
        central=plan.central,
        same_rows=same_rows,
    )
