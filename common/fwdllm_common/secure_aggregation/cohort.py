"""The members of a cohort, who is whose peer, and their messages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fwdllm_common.errors import BadInputError

MIN_MEMBERS = 8
"""Fewest devices whose sum a device helps to unmask, unless its owner asks for more."""
FEWEST_MEMBERS = 3
"""Of two devices each would learn the other's numbers from the sum."""
MAX_MEMBERS = 4096
MAX_PEERS = 128
"""Peers of a member of a large cohort; in a smaller one every other member is a peer."""
KEY_BYTES = 32
SESSION_BYTES = 32
MAX_NUMBERS = 1 << 20
"""Numbers in a vector."""


@dataclass(frozen=True)
class Session:
    """One sum: its ``id`` of 32 bytes, never used again, the ``length`` of vectors and the largest |number| in them.

    :raises BadInputError: a field is out of bounds, or the sum over :data:`MAX_MEMBERS` could exceed 63 bits.
    """

    id: bytes
    length: int
    largest: int

    def __post_init__(self) -> None:
        if len(self.id) != SESSION_BYTES or not 1 <= self.length <= MAX_NUMBERS:
            raise BadInputError(f"a session has an id of {SESSION_BYTES} bytes and 1 to {MAX_NUMBERS} numbers")
        if not 0 < self.largest * MAX_MEMBERS < 1 << 63:
            raise BadInputError(f"a sum of numbers up to {self.largest} over {MAX_MEMBERS} devices exceeds 63 bits")


@dataclass(frozen=True)
class PublicKeys:
    """X25519 public keys of a member, 32 bytes each: one seals shares, the other one agrees on masks."""

    sealing: bytes
    masking: bytes

    def __post_init__(self) -> None:
        if len(self.sealing) != KEY_BYTES or len(self.masking) != KEY_BYTES:
            raise BadInputError(f"an X25519 public key has {KEY_BYTES} bytes")


@dataclass(frozen=True)
class Advertisement:
    """A member's first message: its keys, and a commitment to its self mask that the coordinator keeps."""

    keys: PublicKeys
    commitment: bytes


@dataclass(frozen=True)
class Unmasking:
    """A member's last message, shares by peer: of self masks of those in the sum, of masking keys of all others."""

    self_masks: Mapping[int, bytes] = field(default_factory=dict)
    masking_keys: Mapping[int, bytes] = field(default_factory=dict)


def threshold(peers: int) -> int:
    """Return how many of its ``peers`` shares restore a member's secret: more than two thirds of them.

    A coordinator that tells two parts of the peers different stories of who is missing gets both secrets of a member
    only with the help of a third of its peers.
    """
    return 2 * peers // 3 + 1


def peers_of_all(members: Sequence[int], seed: bytes, most: int = MAX_PEERS) -> Mapping[int, Sequence[int]]:
    """Return the peers of each member, ascending: a regular graph in which the ``seed`` places the members on a ring.

    Each member's peers are its nearest neighbours on the ring, an even number of at ``most`` so many, or all others.

    :raises BadInputError: there are too few or too many members, or one occurs twice.
    """
    if len(set(members)) != len(members) or not FEWEST_MEMBERS <= len(members) <= MAX_MEMBERS:
        raise BadInputError(f"a cohort has {FEWEST_MEMBERS} to {MAX_MEMBERS} different members")
    ring = sorted(members, key=lambda member: hashlib.sha256(seed + member.to_bytes(4, "little")).digest())
    if len(ring) <= most + 1:
        return {member: sorted(set(ring) - {member}) for member in ring}
    near = [step for step in range(-(most // 2), most // 2 + 1) if step]
    return {member: sorted(ring[(place + step) % len(ring)] for step in near) for place, member in enumerate(ring)}
