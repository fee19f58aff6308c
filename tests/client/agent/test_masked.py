"""A device's part in secure aggregation, with a coordinator in the same process that keeps the others' parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fwdllm.v1 import device_pb2
from fwdllm.v1.ledger_pb2 import RunHeader
from fwdllm_client.agent.journal import Journal
from fwdllm_client.agent.link import Link
from fwdllm_client.agent.masked import MaskedScalars
from fwdllm_client.connection.retry import StopRequested
from fwdllm_client.connection.transport import Traffic
from fwdllm_common.clipping import Part, clipped
from fwdllm_common.errors import IntegrityError, NotAllowedError
from fwdllm_common.fixed_point import SCALE
from fwdllm_common.secure_aggregation import Aggregation, Member, NotEnoughMembersError, messages, peers_of_all

DERIVATIVES = [0.5, -1.25, 3.0]
SESSION = bytes(range(32))
WEIGHT = 5


class Cohort:
    """The coordinator and the other members; ``deaf_to`` is a message that the device gets no answer to."""

    address = "here"
    traffic = Traffic()

    def __init__(self, size: int = 8, deaf_to: str = "", others_get: device_pb2.Assignment | None = None) -> None:
        self.deaf_to = deaf_to
        self.requests: list[device_pb2.AggregateRequest] = []
        session = messages.session_of(others_get or assignment())
        self.sum = Aggregation(session, peers_of_all(range(size), SESSION))
        self.others = {number: Member(session, number) for number in range(1, size)}
        for number, member in self.others.items():
            self.sum.advertise(number, member.advertise())

    def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
        self.requests.append(request)
        kind = request.WhichOneof("message")
        if kind == self.deaf_to:
            raise StopRequested
        if kind == "keys":
            self.sum.advertise(0, messages.advertisement_of(request.keys))
            return device_pb2.AggregateResponse(keys=messages.peers_message(self.sum.keys_for(0)))
        if kind == "shares":
            self.sum.share(0, dict(request.shares.peers))
            for number, member in self.others.items():
                self.sum.share(number, member.share(self.sum.keys_for(number)))
            return device_pb2.AggregateResponse(shares=device_pb2.MemberShares(peers=self.sum.sealed_for(0)))
        if kind == "masked":
            self.sum.mask(0, messages.words_of(request.masked))
            nothing = np.zeros(len(DERIVATIVES), dtype=np.int64)
            for number, member in self.others.items():
                self.sum.mask(number, member.mask(nothing, self.sum.sealed_for(number)))
            return device_pb2.AggregateResponse(survivors=device_pb2.Survivors(peers=self.sum.survivors_for(0)))
        self.sum.unmask(0, messages.unmasking_of(request.unmasking))
        for number, member in self.others.items():
            self.sum.unmask(number, member.unmask(self.sum.survivors_for(number)))
        return device_pb2.AggregateResponse(over=True, next=device_pb2.CheckInWindow(min_ms=3, max_ms=4))


def assignment(
    session: bytes = SESSION, weight: int = WEIGHT, *, epsilon: float = 1e-3, **fields: object
) -> device_pb2.Assignment:
    return device_pb2.Assignment(
        **{"assignment_id": "a1", "job_id": "j", "theta_digest": b"1" * 32, "manifest_sha256": b"2" * 32} | fields,
        directions=[
            device_pb2.DirectionTask(
                block="head", seeds=[device_pb2.SeedRange(first=7, count=3)], epsilon=epsilon, batch_size=32
            )
        ],
        secure_aggregation=device_pb2.SecureAggregation(session=session, member=0, weight=weight),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as opened:
        yield opened


def masked(journal: Journal, cohort: Cohort, least: int = 8) -> MaskedScalars:
    return MaskedScalars(Link(cohort, journal, threading.Event()), least)


def send(device: MaskedScalars, work: device_pb2.Assignment) -> device_pb2.CheckInWindow | None:
    return device.send(work, lambda: None)


def test_the_sum_has_the_scalars_times_the_weight(journal):
    cohort = Cohort()
    device = masked(journal, cohort)
    device.keep(assignment(), DERIVATIVES)

    assert send(device, assignment()).max_ms == 4
    assert cohort.sum.sum().tolist() == [round(WEIGHT * SCALE * value) for value in DERIVATIVES]


@pytest.mark.parametrize("lost", ["keys", "shares", "masked", "unmasking"])
def test_a_device_that_restarts_sends_the_same_message_again(path, lost):
    cohort = Cohort(deaf_to=lost)
    with closing(Journal(path)) as journal:
        device = masked(journal, cohort)
        device.keep(assignment(), DERIVATIVES)
        with pytest.raises(StopRequested):
            send(device, assignment())
    cohort.deaf_to = ""
    with closing(Journal(path)) as journal:
        device = masked(journal, cohort)
        assert device.are_kept(assignment())
        send(device, assignment())

    sent = [request for request in cohort.requests if request.WhichOneof("message") == lost]
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert cohort.sum.sum().tolist() == [round(WEIGHT * SCALE * value) for value in DERIVATIVES]


@pytest.mark.parametrize("size", [3, 7])
def test_a_small_cohort_gets_nothing_but_keys(journal, size):
    cohort = Cohort(size)
    device = masked(journal, cohort)
    device.keep(assignment(), DERIVATIVES)
    with pytest.raises(NotAllowedError, match=f"a sum over {size} devices"):
        send(device, assignment())

    assert [request.WhichOneof("message") for request in cohort.requests] == ["keys"]


def test_the_owner_sets_the_least_cohort(journal):
    device = masked(journal, Cohort(8), least=9)
    device.keep(assignment(), DERIVATIVES)
    with pytest.raises(NotAllowedError, match="sums over 9 or more"):
        send(device, assignment())


@pytest.mark.parametrize("wait_ms", [1, (1 << 32) - 1])
def test_a_device_asks_again_after_a_minute_at_most(journal, wait_ms):
    class Slow(Cohort):
        def aggregate(self, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
            return device_pb2.AggregateResponse(wait_ms=wait_ms)

    class Stop(threading.Event):
        waits: ClassVar[list[float | None]] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout)
            return True

    device = MaskedScalars(Link(Slow(), journal, Stop()), 8)
    device.keep(assignment(), DERIVATIVES)
    with pytest.raises(StopRequested):
        send(device, assignment())
    assert Stop.waits == [min(wait_ms / 1000, 60)]


@pytest.mark.parametrize("weight", [0, 9])
def test_a_weight_out_of_bounds_is_refused(journal, weight):
    with pytest.raises(NotAllowedError, match="weights are 1 to 8"):
        masked(journal, Cohort()).keep(assignment(weight=weight), DERIVATIVES)


OTHER_VIEWS = {
    "theta": assignment(theta_digest=b"3" * 32),
    "tasks": assignment(epsilon=1e-30),
    "model": assignment(manifest_sha256=b"3" * 32),
    "version": assignment(version=1),
    "job": assignment(job_id="another"),
    "run": assignment(header=RunHeader(run_key=1)),
}


@pytest.mark.parametrize("others_get", OTHER_VIEWS.values(), ids=OTHER_VIEWS)
def test_a_coordinator_that_asks_the_others_for_something_else_gets_no_sum(journal, others_get):
    """The others' scalars are 0: were there a sum, it would be this device's scalars."""
    cohort = Cohort(others_get=others_get)
    device = masked(journal, cohort)
    device.keep(assignment(), DERIVATIVES)
    send(device, assignment())

    with pytest.raises((NotEnoughMembersError, IntegrityError)):
        cohort.sum.sum()
    for number, member in cohort.others.items():  # nobody can open its sealed shares
        assert 0 not in member.unmask(cohort.sum.survivors_for(number)).self_masks


@pytest.mark.parametrize(
    "changed",
    [assignment(session=bytes(32)), assignment(weight=1), *OTHER_VIEWS.values()],
    ids=["session", "weight", *OTHER_VIEWS],
)
def test_scalars_are_masked_for_one_session_and_weight(journal, changed):
    cohort = Cohort()
    device = masked(journal, cohort)
    device.keep(assignment(), DERIVATIVES)
    with pytest.raises(NotAllowedError, match="changes what a sum"):
        send(device, changed)

    assert cohort.requests == []


def test_a_withdrawn_permission_ends_the_part(journal):
    cohort = Cohort()
    device = masked(journal, cohort)
    device.keep(assignment(), DERIVATIVES)

    def stopped() -> None:
        if len(cohort.requests) == 2:
            raise StopRequested

    with pytest.raises(StopRequested):
        device.send(assignment(), stopped)
    assert [request.WhichOneof("message") for request in cohort.requests] == ["keys", "shares"]


def test_an_assignment_that_is_over_leaves_nothing(journal):
    device = masked(journal, Cohort())
    device.keep(assignment(), DERIVATIVES)
    send(device, assignment())
    journal.keep_only(["another"])

    assert not device.are_kept(assignment())
    assert journal.membership("a1") is None


def test_what_is_masked_is_within_the_clip_and_has_noise_that_is_drawn_once(path, journal):
    agreement = assignment()
    agreement.secure_aggregation.clip, agreement.secure_aggregation.noise = 0.5, 1.0
    masked(journal, Cohort()).keep(agreement, DERIVATIVES, [4])
    kept = np.frombuffer(journal.membership("a1").scalars, dtype="<i8")
    plain = np.array([round(WEIGHT * value * SCALE) for value in DERIVATIVES], dtype=np.int64)

    (within,) = clipped([Part(plain, 4)], 0.5)
    noise = (kept - within) / (0.5 * 3 / 2 * SCALE)  # of a part of three of four directions
    assert np.all(noise != 0)
    assert np.all(np.abs(noise) < 7)
    cohort = Cohort(others_get=agreement)
    masked(journal, cohort).send(agreement, lambda: None)
    assert np.array_equal(cohort.sum.sum(), kept)


@pytest.mark.parametrize(("clip", "noise"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1e7, 1.0), (float("nan"), 1.0)])
def test_a_clip_or_noise_that_makes_no_sense_is_refused(journal, clip, noise):
    agreement = assignment()
    agreement.secure_aggregation.clip, agreement.secure_aggregation.noise = clip, noise
    with pytest.raises(NotAllowedError, match="out of bounds"):
        masked(journal, Cohort()).keep(agreement, DERIVATIVES, [4])


def test_directions_that_bound_no_gradient_are_refused_with_noise(journal):
    agreement = assignment()
    agreement.secure_aggregation.clip, agreement.secure_aggregation.noise = 1.0, 1.0
    with pytest.raises(NotAllowedError, match="not orthogonal"):
        masked(journal, Cohort()).keep(agreement, DERIVATIVES, [0])


def test_less_noise_for_others_gives_no_sum(journal):
    own, others = assignment(), assignment()
    own.secure_aggregation.clip = others.secure_aggregation.clip = 1.0
    own.secure_aggregation.noise, others.secure_aggregation.noise = 1.0, 1e-9
    cohort = Cohort(others_get=others)
    device = masked(journal, cohort)
    device.keep(own, DERIVATIVES, [4])
    send(device, own)
    with pytest.raises((NotEnoughMembersError, IntegrityError)):
        cohort.sum.sum()
