"""Scalars that leave the device masked: its part in secure aggregation (docs/privacy.md).

What the device has sent, and what it was told, is durable before it sends the next message. After a restart it is the
same member: it masks one vector, and reveals one secret of each peer. It needs ``cryptography``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from fwdllm.v1 import device_pb2
from fwdllm_client.agent.journal import Membership
from fwdllm_client.agent.link import Link
from fwdllm_client.connection.retry import StopRequested
from fwdllm_common.errors import NotAllowedError
from fwdllm_common.fixed_point import to_fixed_point
from fwdllm_common.noised import noised
from fwdllm_common.secure_aggregation import MAX_MEMBERS, Member, messages
from fwdllm_common.secure_aggregation.member import ROOT_BYTES

MOST_CLIP, MOST_NOISE = 1e6, 1e6
"""Bounds of what a coordinator may ask for: noise is the variance over the squared clip."""
MOST_WAIT_S = 60.0
"""Until the newest message is sent again, whatever the coordinator says."""

_log = structlog.get_logger()


class MaskedScalars:
    """Sends the scalars of assignments masked, in cohorts of ``least`` devices or more."""

    def __init__(self, link: Link, least: int) -> None:
        self._link = link
        self._least = least

    def are_kept(self, assignment: device_pb2.Assignment) -> bool:
        """Whether the assignment's scalars are in the journal."""
        return self._link.journal.membership(assignment.assignment_id) is not None

    def keep(self, assignment: device_pb2.Assignment, derivatives: Sequence[float], orders: Sequence[int] = ()) -> None:
        """Make the scalars of an assignment durable, all of them, times the device's weight, clipped and with noise.

        What is kept is what the sum has of this device: its noise is drawn once. The assignment is as it was received,
        here and in :meth:`send`. ``orders`` are those of the frames that its tasks are parts of, 0 for no frame.

        :raises NotAllowedError: the weight, the clip or the noise is out of bounds, or nothing bounds the gradient.
        :raises UnusableScalarError: one is not finite or too large.
        """
        agreement = assignment.secure_aggregation
        if not 1 <= agreement.weight <= messages.MAX_WEIGHT or agreement.member >= MAX_MEMBERS:
            raise NotAllowedError(
                f"it gives this device the weight {agreement.weight} in a sum; weights are 1 to {messages.MAX_WEIGHT}"
            )
        values = np.array([agreement.weight * to_fixed_point(value) for value in derivatives], dtype=np.int64)
        if agreement.clip or agreement.noise:
            _check_noise(assignment, orders)
            values = noised(values, assignment, orders)
        self._link.journal.join(
            Membership(
                assignment.assignment_id,
                _agreed(assignment).SerializeToString(deterministic=True),
                secrets.token_bytes(ROOT_BYTES),
                values.astype("<i8").tobytes(),
            )
        )

    def send(
        self, assignment: device_pb2.Assignment, check_cancelled: Callable[[], None]
    ) -> device_pb2.CheckInWindow | None:
        """Take part in the sum with the scalars that are kept; return when to check in again.

        ``check_cancelled`` is called before each message; its exception ends the device's part.

        :raises NotAllowedError: the cohort is too small, or the coordinator tells another story than before.
        :raises BadInputError: a message of the coordinator is not valid.
        :raises WorkGoneError: the coordinator does not know the assignment any more.
        :raises StopRequested: the agent is to stop.
        """
        retry = self._link.retry()
        part = _Part(self._link, assignment, self._least)
        while True:
            check_cancelled()
            answer = retry.call(partial(self._link.coordinator.aggregate, part.message()))
            if answer.over:
                _log.info("masked scalars sent", job=assignment.job_name, round=assignment.round)
                return answer.next if answer.HasField("next") else None
            if answer.WhichOneof("answer") is not None:
                part.go_on(answer)
            elif self._link.stop.wait(min(answer.wait_ms / 1000, MOST_WAIT_S)):
                raise StopRequested


def _check_noise(assignment: device_pb2.Assignment, orders: Sequence[int]) -> None:
    """Check what a coordinator asks for.

    :raises NotAllowedError: clip or noise are out of bounds, or directions are not orthogonal.
    """
    clip, noise = assignment.secure_aggregation.clip, assignment.secure_aggregation.noise
    if not (0 < clip <= MOST_CLIP and 0 < noise <= MOST_NOISE):
        raise NotAllowedError(f"it asks for sums with a clip of {clip:g} and noise of {noise:g}, out of bounds")
    if not orders or not all(orders):
        raise NotAllowedError("it asks for noised sums of directions that are not orthogonal: nothing bounds them")


class _Part:
    """A member, made again of what the journal has of it, and its newest message."""

    def __init__(self, link: Link, assignment: device_pb2.Assignment, least: int) -> None:
        self._journal = link.journal
        known = self._journal.membership(assignment.assignment_id)
        agreement = _agreed(assignment)
        if known is None or known.agreement != agreement.SerializeToString(deterministic=True):
            raise NotAllowedError("it changes what a sum of scalars is over")
        self._known = known
        self._values = np.frombuffer(known.scalars, dtype="<i8").astype(np.int64)
        self._member = Member(messages.session_of(assignment), agreement.member, known.root, least)
        self._request = device_pb2.AggregateRequest(
            assignment_id=assignment.assignment_id, keys=messages.keys_message(self._member.advertise())
        )
        for step, said in enumerate(known.answers):
            self._follow(device_pb2.AggregateResponse.FromString(said), known.sealed if step == 0 else None)

    def message(self) -> device_pb2.AggregateRequest:
        """Return the newest message."""
        return self._request

    def go_on(self, answer: device_pb2.AggregateResponse) -> None:
        """Make the next message, and with it the answer durable that it follows from."""
        said = device_pb2.AggregateResponse()
        said.CopyFrom(answer)
        said.ClearField("next")
        self._follow(said)
        sealed = self._request.shares.SerializeToString() if self._request.HasField("shares") else None
        self._journal.heard(self._known.assignment_id, said.SerializeToString(), sealed)

    def _follow(self, answer: device_pb2.AggregateResponse, sealed: bytes | None = None) -> None:
        member, request = self._member, device_pb2.AggregateRequest(assignment_id=self._known.assignment_id)
        if answer.HasField("keys"):
            before = None if sealed is None else dict(device_pb2.MemberShares.FromString(sealed).peers)
            shares = member.share(messages.peers_of(answer.keys), before)
            request.shares.CopyFrom(device_pb2.MemberShares(peers=shares))
        elif answer.HasField("shares"):
            request.masked = messages.words_message(member.mask(self._values, dict(answer.shares.peers)))
        else:
            request.unmasking.CopyFrom(messages.unmasking_message(member.unmask(answer.survivors.peers)))
        self._request = request


def _agreed(assignment: device_pb2.Assignment) -> device_pb2.SecureAggregation:
    """Return what may not change until the scalars are summed: the device's part, and what they are of."""
    part = assignment.secure_aggregation
    return device_pb2.SecureAggregation(
        session=messages.session_of(assignment).id,
        member=part.member,
        weight=part.weight,
        clip=part.clip,
        noise=part.noise,
    )
