"""A scripted device of a round with secure aggregation, on a coordinator without a network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from helpers.rig import CoordinatorDiedError, Rig
from helpers.tiny_job import LAYOUT
from numpy.typing import NDArray

from fwdllm.v1 import device_pb2
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.noised import noised
from fwdllm_common.secure_aggregation import Member, messages
from fwdllm_common.seeds import from_messages, seeds_in

Kind = Literal["keys", "shares", "masked", "unmasking"]


def scalar(name: str, seed: int) -> float:
    """What a device measures: some number from −1 to 1 that its name and the seed decide."""
    return ((seed + 77 * ord(name[-1])) * 2654435761 >> 5) % 4001 / 2000 - 1


def values_of(name: str, assignment: device_pb2.Assignment) -> NDArray[np.int64]:
    """The fixed-point scalars of an assignment, int64 ``[directions]``."""
    seeds = [seed for task in assignment.directions for seed in seeds_in(from_messages(task.seeds))]
    return np.array([to_fixed_point(scalar(name, seed)) for seed in seeds], dtype=np.int64)


@dataclass
class CohortDevice:
    """Takes part until its message of the kind ``silent_from``, which it does not send.

    Whatever becomes of the coordinator, it sends its newest message until there is an answer. ``sent`` has all of them.
    """

    name: str
    silent_from: Kind | None = None
    sent: dict[str, list[device_pb2.AggregateRequest]] = field(default_factory=dict)
    values: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    _members: dict[str, Member] = field(default_factory=dict)

    def work(self, rig: Rig) -> None:
        rig.check_in(self.name)
        assignment = rig.fetched(self.name)
        if assignment is None:
            return
        work = assignment.assignment_id
        if work not in self.sent:
            self.values[work] = values_of(self.name, assignment)
            secure = assignment.secure_aggregation
            if secure.clip:
                orders = [rig.job.header.order_of(LAYOUT.block(task.block)) for task in assignment.directions]
                self.values[work] = noised(self.values[work], assignment, orders)
            member = self._members[work] = Member(messages.session_of(assignment), secure.member)
            self.weights[work] = secure.weight
            keys = messages.keys_message(member.advertise())
            self.sent[work] = [device_pb2.AggregateRequest(assignment_id=work, keys=keys)]
        if work in self.over:
            return
        request = self.sent[work][-1]
        if request.WhichOneof("message") == self.silent_from:
            return
        answer = rig.aggregate(request)
        if answer.over:
            self.over.add(work)
        elif answer.WhichOneof("answer"):
            self.sent[work].append(self._next(work, answer))

    def _next(self, work: str, answer: device_pb2.AggregateResponse) -> device_pb2.AggregateRequest:
        member, request = self._members[work], device_pb2.AggregateRequest(assignment_id=work)
        if answer.HasField("keys"):
            sealed = member.share(messages.peers_of(answer.keys))
            request.shares.CopyFrom(device_pb2.MemberShares(peers=sealed))
        elif answer.HasField("shares"):
            weighted = self.values[work] * self.weights[work]
            request.masked = messages.words_message(member.mask(weighted, dict(answer.shares.peers)))
        else:
            request.unmasking.CopyFrom(messages.unmasking_message(member.unmask(answer.survivors.peers)))
        return request


def run_cohort(
    rig: Rig,
    devices: list[CohortDevice],
    until: Callable[[Rig], bool],
    mend: Callable[[Rig], Rig] | None = None,
) -> Rig:
    """Everyone works, second by second, until something is so.

    :param mend: makes a new rig of one whose coordinator has just died.
    """
    for _ in range(400):
        try:
            for device in devices:
                device.work(rig)
            rig.settle()
            if until(rig):
                return rig
        except CoordinatorDiedError:
            assert mend is not None
            rig = mend(rig)
        rig.now += 1
    raise AssertionError(f"it does not come to that: {rig.round}")
