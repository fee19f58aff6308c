"""Dividing directions among devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fwdllm.v1 import device_pb2
from fwdllm_server.algorithm import BlockPlan
from fwdllm_server.rounds.training import RoundContext
from fwdllm_server.store import assignments


@dataclass(frozen=True)
class Share:
    """Some of a block's directions, by ascending seed."""

    plan: BlockPlan
    seeds: Sequence[int]


def hand_out(context: RoundContext, shares: Sequence[Share], devices: Sequence[str]) -> int:
    """Offer every direction to one device, evenly; a device that would get none gets no assignment.

    :returns: how many devices have an assignment.
    """
    rounds = context.job.spec.rounds
    every = rounds.federated_evaluate_every
    evaluate = every > 0 and (context.round.version + 1) % every == 0
    work = assignments.of_round(context.connection, context.job.id, context.round.number) if evaluate else ()
    evaluating = {assignment.device_id for assignment in work}  # a device's rows count once in a round
    offered = 0
    for index, device in enumerate(devices):
        tasks = [_task(share.plan, part) for share in shares if (part := _part(share.seeds, index, len(devices)))]
        if tasks:
            assignments.offer(
                context.connection,
                context.job.id,
                context.round.number,
                device,
                tasks,
                evaluate=evaluate and device not in evaluating,
                expires_at=context.now + rounds.assignment_s,
            )
            context.presence.leave(device)
            offered += 1
    return offered


def _part(seeds: Sequence[int], index: int, parts: int) -> Sequence[int]:
    return seeds[len(seeds) * index // parts : len(seeds) * (index + 1) // parts]


def _task(plan: BlockPlan, seeds: Sequence[int]) -> device_pb2.DirectionTask:
    return device_pb2.DirectionTask(
        block=plan.block,
        seeds=[device_pb2.SeedRange(first=first, count=count) for first, count in _ranges(seeds)],
        epsilon=plan.epsilon,
        batch_size=plan.batch_size,
    )


def _ranges(seeds: Iterable[int]) -> Iterator[tuple[int, int]]:
    first, count = None, 0
    for seed in seeds:
        if first is not None and seed == first + count:
            count += 1
            continue
        if first is not None:
            yield first, count
        first, count = seed, 1
    if first is not None:
        yield first, count
