"""A cohort whose members and coordinator exchange messages without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.secure_aggregation import Aggregation, Member, Session, Unmasking, peers_of_all

LARGEST = 1 << 46


def session(name: str = "one", length: int = 5) -> Session:
    return Session(hashlib.sha256(name.encode()).digest(), length, LARGEST)


def random_values(members: int, length: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-LARGEST, LARGEST, (members, length), endpoint=True)


class Cohort:
    """Members 1, 2, … of one session, each with a row of ``values``, and what they send by step and member."""

    def __init__(
        self,
        values: NDArray[np.int64],
        roots: Sequence[bytes] | None = None,
        least: int = 3,
        name: str = "one",
        peers: int = 128,
    ) -> None:
        count, length = values.shape
        self.session = session(name, length)
        self.values = dict(enumerate(values, start=1))
        self.peers = peers_of_all(range(1, count + 1), self.session.id, peers)
        self.coordinator = Aggregation(self.session, self.peers)
        self.members = {
            number: Member(self.session, number, roots[number - 1] if roots else None, least)
            for number in range(1, count + 1)
        }
        self.sent: dict[tuple[str, int], object] = {}

    def advertise(self, numbers: Collection[int]) -> None:
        for number in numbers:
            message = self.members[number].advertise()
            self.sent["keys", number] = astuple(message)
            assert self.coordinator.advertise(number, message)

    def share(self, numbers: Collection[int], known: Mapping[int, Mapping[int, bytes]] | None = None) -> None:
        for number in numbers:
            message = self.members[number].share(self.coordinator.keys_for(number), known and known[number])
            self.sent["shares", number] = message
            assert self.coordinator.share(number, message)

    def mask(self, numbers: Collection[int]) -> None:
        for number in numbers:
            masked = self.members[number].mask(self.values[number], self.coordinator.sealed_for(number))
            self.sent["masked", number] = masked
            assert self.coordinator.mask(number, masked)

    def unmask(self, numbers: Collection[int]) -> None:
        for number in numbers:
            message = self.members[number].unmask(self.coordinator.survivors_for(number))
            self.sent["unmasking", number] = message
            assert self.coordinator.unmask(number, message)

    def unmaskings(self) -> Mapping[int, Unmasking]:
        return {
            number: message
            for (step, number), message in self.sent.items()
            if step == "unmasking" and isinstance(message, Unmasking)
        }
