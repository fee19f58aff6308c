"""Reassign the work of stragglers: unassigned directions, and those of slow or silent devices, go to idle devices.

A round does not wait for a single device. Assignments are not withdrawn: two devices may measure the same direction,
and the first scalar counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf

import structlog

from fwdllm_common.estimator import Scalar
from fwdllm_server.algorithm import BlockPlan, Measured, directions_measured, measured_by_device
from fwdllm_server.algorithm.forward_gradient import step_size
from fwdllm_server.rounds.context import RoundContext
from fwdllm_server.rounds.distribution import Frames, Share, hand_out
from fwdllm_server.rounds.dropout import QUIET
from fwdllm_server.rounds.load import MOST_OF_ROUND, Load
from fwdllm_server.store import assignments
from fwdllm_server.store.assignments import AssignmentRecord, AssignmentState

TURNAROUND_S = 5.0
"""Seconds until an idle device computes: it checks in every few seconds, and first fetches the weights."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Held:
    """An open assignment. ``owed`` are its missing directions, (seed, block), in the order of measurement."""

    device: str
    owed: Sequence[tuple[int, str]]
    silent_s: float
    patience_s: float

    @property
    def live(self) -> bool:
        """Whether the device is still expected to finish it."""
        return self.silent_s < self.patience_s


@dataclass(frozen=True)
class Scene:
    """The state of a round that a reassignment is based on.

    ``missing`` maps each missing seed to its block, by ascending seed, and ``wanted`` maps it to the number of devices
    that are still to measure it. ``measured`` has the seeds of each device in blocks that several devices measure.
    ``left_s`` is the time to the deadline in seconds.
    """

    context: RoundContext
    work: Sequence[AssignmentRecord]
    idle: Sequence[str]
    load: Load
    missing: Mapping[int, str]
    wanted: Mapping[int, int]
    measured: Mapping[str, Set[int]]
    held: Sequence[Held]
    left_s: float


def reassign(
    context: RoundContext,
    work: Sequence[AssignmentRecord],
    collected: Callable[[], Mapping[str, Measured]],
    left_s: float,
) -> float:
    """Offer the missing directions of a round to idle devices.

    A device that let an assignment of this round expire, or sent unusable scalars, gets no other one in it.

    :param work: the round's assignments.
    :param collected: returns the scalars of each block so far.
    :param left_s: seconds to the deadline.
    :returns: seconds after which to check again, if nothing happens before.
    """
    failed = _failed(work)
    idle = [device for device in context.idle_devices() if device not in failed]
    if not idle:
        return inf  # the next check-in causes another check
    measured = collected()
    independent = {
        plan.block: [each for each in measured[plan.block] if isinstance(each, Scalar)]
        for plan in context.round.plan
        if not plan.order
    }
    scene = _look(context, work, idle, independent, left_s)
    offered = _offer_again(scene) or _help(scene) or _offer_frames(scene, measured)
    if offered:
        _log.debug("work reassigned", job=context.job.name, round=context.round.number, directions=offered)
    quiet_in = [each.patience_s - each.silent_s for each in scene.held if each.live]
    return min([*quiet_in, QUIET * context.job.spec.rounds.assignment_s if offered else inf])


def straggler_tails(
    held: Sequence[Held], load: Load, helpers: Sequence[float], wanted: Mapping[int, int] = {}
) -> Iterator[tuple[int, str]]:
    """Yield the directions, (seed, block), to reassign to helpers of these speeds, in example-passes a second.

    They are the ends of the slowest assignments. With the helpers computing after :data:`TURNAROUND_S`, all devices
    finish at about the same time. A direction that more devices hold than are ``wanted`` (by default one) is left to
    them.
    """
    holders = Counter(seed for each in held for seed, _ in each.owed)
    waiting = []
    for each in held:
        own = [(seed, block) for seed, block in each.owed if holders[seed] <= wanted.get(seed, 1)]
        speed = load.speeds[each.device]
        waiting.append((sum(load.costs[block] for _, block in own) - speed * each.silent_s, speed, own))
    waiting.sort(key=lambda entry: -entry[0] / entry[1])
    passes, speeds = sum(helpers) * TURNAROUND_S, sum(helpers)
    for left, speed, _ in waiting:  # the slowest first, as long as help speeds them up
        if left / speed > passes / speeds:
            passes, speeds = passes + left, speeds + speed
    for left, speed, own in waiting:
        for seed, block in reversed(own):
            if left / speed <= max(passes / speeds, TURNAROUND_S + load.costs[block] / max(helpers)):
                break
            left -= load.costs[block]
            yield seed, block


def _failed(work: Sequence[AssignmentRecord]) -> set[str]:
    return {assignment.device_id for assignment in work if assignment.failed}


def _look(
    context: RoundContext,
    work: Sequence[AssignmentRecord],
    idle: Sequence[str],
    collected: Mapping[str, Sequence[Scalar]],
    left_s: float,
) -> Scene:
    load = Load.of(context, [*idle, *(assignment.device_id for assignment in work)])
    independent = [plan for plan in context.round.plan if not plan.order]
    open_plans = [plan for plan in independent if not _is_complete(plan, collected[plan.block])]
    measured: dict[str, set[int]] = defaultdict(set)
    for plan in open_plans:
        for scalar in collected[plan.block] if plan.devices_per_direction > 1 else ():
            measured[scalar.device].add(scalar.seed)
    missing, wanted = {}, {}
    for plan in open_plans:
        have = Counter(scalar.seed for scalar in collected[plan.block])
        for seed in plan.seeds:
            if have[seed] < plan.devices_per_direction:
                missing[seed], wanted[seed] = plan.block, plan.devices_per_direction - have[seed]
    held = [_held(context, load, assignment, missing, measured) for assignment in work if assignment.open]
    return Scene(context, work, idle, load, missing, wanted, measured, held, left_s)


def _is_complete(plan: BlockPlan, scalars: Sequence[Scalar]) -> bool:
    return directions_measured(scalars, plan.devices_per_direction) >= plan.wanted


def _held(
    context: RoundContext,
    load: Load,
    work: AssignmentRecord,
    missing: Mapping[int, str],
    measured: Mapping[str, Set[int]],
) -> Held:
    assignment_s = context.job.spec.rounds.assignment_s
    own = measured.get(work.device_id, frozenset())
    owed = [(seed, missing[seed]) for seed in work.seeds if seed in missing and seed not in own]
    needed_s = load.seconds(work.device_id, sum(load.costs[block] for _, block in owed))
    return Held(
        device=work.device_id,
        owed=owed,
        silent_s=context.now - (work.expires_at - assignment_s),  # any progress prolonged it
        # Some devices send all their scalars at the end.
        patience_s=max(QUIET * assignment_s, 2 * needed_s),
    )


def _offer_again(scene: Scene) -> Mapping[str, int]:
    """Offer the directions that no live assignment covers: to new devices first, else to those of the round.

    No device gets more than its share of a step: devices check in one by one, and the first must not get all the work.
    """
    in_hand = Counter(seed for each in scene.held if each.live for seed, _ in each.owed)
    short = {seed: count for seed, wanted in scene.wanted.items() if (count := wanted - in_hand[seed]) > 0}
    taken_part = {assignment.device_id for assignment in scene.work}
    devices = [device for device in scene.idle if device not in taken_part] or scene.idle
    speeds = {device: Fraction(speed) for device, speed in scene.load.speeds.items()}
    counted_on = taken_part - _failed(scene.work)
    together = sum((speeds[device] for device in counted_on), Fraction(0))

    def part_of_step(plan: BlockPlan, device: str) -> int:
        part = speeds[device] / max(together, speeds[device])
        if counted_on - {device}:
            part = min(part, MOST_OF_ROUND)
        return ceil(step_size(scene.context.job.run, plan) * plan.devices_per_direction * part)

    return _offer(scene, short, devices, part_of_step)


def _help(scene: Scene) -> Mapping[str, int]:
    """Offer the ends of slow assignments to devices of the round that have finished theirs."""
    done = {assignment.device_id for assignment in scene.work if assignment.state == AssignmentState.DONE}
    helpers = [device for device in scene.idle if device in done]
    if not helpers or not scene.load.measured:
        return {}
    live = [each for each in scene.held if each.live]
    speeds = [scene.load.speeds[device] for device in helpers]
    ends = {seed: 1 for seed, _ in straggler_tails(live, scene.load, speeds, scene.wanted)}
    return _offer(scene, ends, helpers, lambda plan, _device: len(plan.seeds))


def _offer_frames(scene: Scene, collected: Mapping[str, Measured]) -> Mapping[str, int]:
    """Frames of their own to new devices, in the place of those that nobody measures any more."""
    taken_part = {assignment.device_id for assignment in scene.work}
    devices = [device for device in scene.idle if device not in taken_part]
    live = {held.device for held in scene.held if held.live}
    frames, missing = [], 0
    for plan in scene.context.round.plan if devices else ():
        tasks = [(work, task) for work in scene.work for task in work.tasks if plan.order and task.block == plan.block]
        if not tasks:
            continue
        measured = measured_by_device([collected[plan.block]])
        owed = sum(
            assignments.directions_of([task]) - measured[work.device_id]
            for work, task in tasks
            if work.open and work.device_id in live
        )
        lost = plan.wanted - measured.total() - owed
        if lost > 0:
            missing = max(missing, ceil(lost / plan.per_device))
            frames.append(
                Frames(plan, 1 + max(plan.index_of(assignments.seeds_of(task)[0].start) for _, task in tasks))
            )
    if not frames:
        return {}
    chosen = scene.context.draw(devices)[:missing]
    return hand_out(scene.context, (), chosen, scene.load, scene.left_s, frames=frames)


def _offer(
    scene: Scene, counts: Mapping[int, int], devices: Sequence[str], most: Callable[[BlockPlan, str], int]
) -> Mapping[str, int]:
    """Offer each seed to ``counts`` of the devices, none of which has measured it."""
    found = [
        Share(
            plan,
            [seed for copy in range(plan.devices_per_direction) for seed in plan.seeds if counts.get(seed, 0) > copy],
            scene.measured,
        )
        for plan in scene.context.round.plan
        if not plan.order
    ]
    shares = [share for share in found if share.seeds]
    chosen = scene.context.draw(devices)
    return hand_out(scene.context, shares, chosen, scene.load, scene.left_s, most) if shares else {}
