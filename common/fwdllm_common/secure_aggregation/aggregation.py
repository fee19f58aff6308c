"""The coordinator's side of one sum: collects the members' messages and unmasks the sum alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import eq
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError, IntegrityError, WaitTimeoutError
from fwdllm_common.secure_aggregation import primitives
from fwdllm_common.secure_aggregation.cohort import KEY_BYTES, Advertisement, PublicKeys, Session, Unmasking, threshold
from fwdllm_common.secure_aggregation.primitives import SEALED_BYTES, SHARE_BYTES, Words

_T = TypeVar("_T")

_TRIES = 400
"""Choices of shares from which a secret is restored before it counts as lost: a few members may send wrong shares."""


class NotEnoughMembersError(WaitTimeoutError):
    """Too few members are left to unmask the sum."""


class Aggregation:
    """The sum of one ``session`` over members that have ``peers`` (:func:`peers_of_all`).

    A step begins when the next message of a member that is in it arrives; those who have not sent the message of the
    step before are out by then. A repeated message changes nothing, and another one in its place is refused.
    """

    def __init__(self, session: Session, peers: Mapping[int, Sequence[int]]) -> None:
        self._session = session
        self._peers = {member: tuple(sorted(found)) for member, found in peers.items()}
        self._advertised: dict[int, Advertisement] = {}
        self._sealed: dict[int, Mapping[int, bytes]] = {}
        self._masked: dict[int, Words] = {}
        self._unmasked: dict[int, Unmasking] = {}

    @property
    def members(self) -> Collection[int]:
        """Those with keys."""
        return self._advertised.keys()

    @property
    def sharers(self) -> Collection[int]:
        """Those that sent shares."""
        return self._sealed.keys()

    @property
    def survivors(self) -> Collection[int]:
        """Those whose vectors are in the sum."""
        return self._masked.keys()

    def advertise(self, member: int, message: Advertisement) -> bool:
        """Take a member's keys; return whether they are new.

        :raises BadInputError: the member is unknown or sent other keys before, a key is not valid or another member's,
            or the next step has begun.
        """
        if member not in self._peers or len(message.commitment) != KEY_BYTES:
            raise BadInputError("it is not a member of the cohort, or its commitment is not of 32 bytes")
        keys = {message.keys.sealing, message.keys.masking}
        others = (each.keys for other, each in self._advertised.items() if other != member)
        if len(keys) < 2 or any(not keys.isdisjoint((each.sealing, each.masking)) for each in others):
            raise BadInputError("another member of the cohort has the same key")
        for key in keys:
            primitives.check_public_key(key)
        return _added(self._advertised, member, message, open_=not self._sealed)

    def keys_for(self, member: int) -> Mapping[int, PublicKeys]:
        """Return the keys of a member's peers."""
        return {peer: self._advertised[peer].keys for peer in self._peers_with(member, self._advertised)}

    def share(self, member: int, sealed: Mapping[int, bytes]) -> bool:
        """Take a member's sealed shares; return whether they are new.

        :raises BadInputError: they are not for each of its peers with keys, or not the same as before.
        """
        if member not in self._advertised or sorted(sealed) != self._peers_with(member, self._advertised):
            raise BadInputError("a member sends sealed shares for each of its peers")
        if any(len(box) != SEALED_BYTES for box in sealed.values()):
            raise BadInputError(f"sealed shares have {SEALED_BYTES} bytes")
        return _added(self._sealed, member, dict(sealed), open_=not self._masked)

    def sealed_for(self, member: int) -> Mapping[int, bytes]:
        """Return the shares that a member's peers have sealed for it."""
        return {peer: self._sealed[peer][member] for peer in self._peers_with(member, self._sealed)}

    def mask(self, member: int, masked: Words) -> bool:
        """Take a member's masked vector, uint64 ``[length]``; return whether it is new.

        :raises BadInputError: the member sent no shares, another vector before, or the sum is being unmasked.
        """
        if member not in self._sealed or masked.shape != (self._session.length,):
            raise BadInputError(f"a masked vector has {self._session.length} numbers, of a member that sent shares")
        return _added(self._masked, member, masked.copy(), open_=not self._unmasked, same=np.array_equal)

    def survivors_for(self, member: int) -> Sequence[int]:
        """Return a member's peers whose vectors are in the sum."""
        return self._peers_with(member, self._masked)

    def unmask(self, member: int, message: Unmasking) -> bool:
        """Take a member's shares of its peers' secrets; return whether they are new.

        :raises BadInputError: they are of others than its peers that sent shares, or of both secrets of a peer.
        """
        sharers = set(self._peers_with(member, self._sealed)) if member in self._masked else set[int]()
        if not message.self_masks.keys() <= sharers & self._masked.keys():
            raise BadInputError("a member reveals shares of the self masks of peers in the sum")
        if not message.masking_keys.keys() <= sharers - self._masked.keys():
            raise BadInputError("a member reveals shares of the masking keys of peers that are not in the sum")
        if any(len(share) != SHARE_BYTES for share in [*message.self_masks.values(), *message.masking_keys.values()]):
            raise BadInputError(f"a share has {SHARE_BYTES} bytes")
        return _added(self._unmasked, member, message, open_=True)

    @property
    def missing_shares(self) -> Mapping[int, int]:
        """For each member whose secret cannot be restored yet, how many shares of it are missing."""
        found = {
            member: threshold(len(self._peers_with(member, self._advertised))) - len(self._shares_of(member))
            for member in self._sealed
            if member in self._masked or self.survivors_for(member)
        }
        return {member: count for member, count in found.items() if count > 0}

    def sum(self) -> NDArray[np.int64]:
        """Return the sum of the survivors' vectors, int64 ``[length]``; it is exact.

        :raises NotEnoughMembersError: no vector has arrived, or too few members have sent their shares.
        :raises IntegrityError: the shares of a secret do not restore it.
        """
        if not self._masked or self.missing_shares:
            raise NotEnoughMembersError("too few members of the cohort are left to unmask the sum")
        total = np.zeros(self._session.length, dtype=np.uint64)  # modulo 2^64
        for member, masked in self._masked.items():
            total += masked
            total -= primitives.self_mask_words(self._self_mask(member), self._session.id, self._session.length)
        for member in self._sealed.keys() - self._masked.keys():
            if survivors := self.survivors_for(member):
                total -= self._pair_masks(member, survivors)
        return total.view(np.int64)

    def _self_mask(self, member: int) -> bytes:
        expected = self._advertised[member].commitment
        return self._restored(member, lambda secret: primitives.commitment(secret, self._session.id) == expected)

    def _pair_masks(self, member: int, survivors: Sequence[int]) -> Words:
        """Return what the masks that a missing member shares with ``survivors`` have added to their vectors."""
        expected = self._advertised[member].keys.masking

        def is_right(secret: bytes) -> bool:
            return primitives.masking_key(secret, self._session.id).public_key().public_bytes_raw() == expected

        own = primitives.masking_key(self._restored(member, is_right), self._session.id)
        total = np.zeros(self._session.length, dtype=np.uint64)
        for peer in survivors:
            agreement = primitives.agreed(own, self._advertised[peer].keys.masking)
            mask = primitives.pair_mask_words(agreement, self._session.id, member, peer, self._session.length)
            total = total + mask if peer < member else total - mask
        return total

    def _restored(self, member: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Return the member's secret that its peers have revealed shares of; wrong shares are left out if need be."""
        shares = self._shares_of(member)
        needed = threshold(len(self._peers_with(member, self._advertised)))
        for places in _choices(sorted(shares), needed):
            secret = primitives.joined({place: shares[place] for place in places})
            if is_right(secret):
                return secret
        raise IntegrityError(f"the shares of member {member} of the cohort do not restore its secret")

    def _shares_of(self, member: int) -> Mapping[int, bytes]:
        """Return the revealed shares of a member by the places of their holders among its peers."""
        order = {peer: place for place, peer in enumerate(self._peers_with(member, self._advertised))}
        return dict(self._revealed(member, order))

    def _revealed(self, member: int, order: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
        for peer, place in order.items():
            if (message := self._unmasked.get(peer)) is not None:
                found = message.self_masks if member in self._masked else message.masking_keys
                if member in found:
                    yield place, found[member]

    def _peers_with(self, member: int, those: Collection[int]) -> list[int]:
        return [peer for peer in self._peers[member] if peer in those]


def _choices(places: Sequence[int], count: int) -> Iterator[Sequence[int]]:
    """Return choices of ``count`` of the ``places``: the first ones, then random ones."""
    yield places[:count]
    generator = np.random.default_rng(0)  # of no secret
    for _ in range(_TRIES if len(places) > count else 0):
        yield generator.choice(places, count, replace=False).tolist()


def _added(
    messages: dict[int, _T], member: int, message: _T, *, open_: bool, same: Callable[[_T, _T], bool] = eq
) -> bool:
    if member in messages:
        if not same(messages[member], message):
            raise BadInputError(f"member {member} of the cohort sent another message before; the first one counts")
        return False
    if not open_:
        raise BadInputError(f"member {member} of the cohort is late: the next step has begun")
    messages[member] = message
    return True
