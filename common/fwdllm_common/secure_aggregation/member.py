"""A member of a cohort: masks its vector, and helps to unmask the sum alone."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fwdllm_common.errors import BadInputError, IntegrityError, NotAllowedError
from fwdllm_common.secure_aggregation import primitives
from fwdllm_common.secure_aggregation.cohort import (
    FEWEST_MEMBERS,
    MAX_PEERS,
    MIN_MEMBERS,
    Advertisement,
    PublicKeys,
    Session,
    Unmasking,
    threshold,
)
from fwdllm_common.secure_aggregation.primitives import SECRET_BYTES, SHARE_BYTES, Words

ROOT_BYTES = 32


class Member:
    """Member ``number`` of a cohort in ``session``; call its methods in their order.

    All secrets follow from ``root``, 32 random bytes that serve one session. The same root and the messages that were
    received make the same member again, after a device has started anew. Each method gives the same answer when it is
    called again with the same arguments, and refuses others, so that nothing is masked or revealed twice.

    :param least: fewest members whose sum this member helps to unmask.
    """

    def __init__(self, session: Session, number: int, root: bytes | None = None, least: int = MIN_MEMBERS) -> None:
        self.root = secrets.token_bytes(ROOT_BYTES) if root is None else root
        if len(self.root) != ROOT_BYTES:
            raise BadInputError(f"the root of a member's secrets has {ROOT_BYTES} bytes")
        self._session = session
        self._number = number
        self._least = max(least, FEWEST_MEMBERS)
        self._self_mask = primitives.derived(self.root, session.id, "root of the self mask", size=SECRET_BYTES)
        self._masking_secret = primitives.derived(self.root, session.id, "root of the masking key", size=SECRET_BYTES)
        self._masking_key = primitives.masking_key(self._masking_secret, session.id)
        self._sealing_key = X25519PrivateKey.from_private_bytes(
            primitives.derived(self.root, session.id, "root of the sealing key")
        )
        self._peers: Mapping[int, PublicKeys] = {}
        self._agreements: Mapping[int, bytes] = {}
        self._sealed: Mapping[int, bytes] = {}
        self._sharers: frozenset[int] = frozenset()
        self._held: dict[int, bytes] = {}
        self._masked: tuple[bytes, Words] | None = None
        self._answered: tuple[frozenset[int], Unmasking] | None = None

    def advertise(self) -> Advertisement:
        """Return the keys and the commitment."""
        keys = PublicKeys(
            self._sealing_key.public_key().public_bytes_raw(), self._masking_key.public_key().public_bytes_raw()
        )
        return Advertisement(keys, primitives.commitment(self._self_mask, self._session.id))

    def share(self, peers: Mapping[int, PublicKeys], sealed: Mapping[int, bytes] | None = None) -> Mapping[int, bytes]:
        """Return for each of the ``peers`` the sealed shares of this member's two secrets.

        ``sealed`` is what this method returned before a restart: shares are random.

        :raises NotAllowedError: the cohort is too small, or has other peers than before.
        :raises BadInputError: there are too many peers, a key is not valid, or two members have the same.
        """
        if self._peers:
            if dict(peers) != dict(self._peers):
                raise NotAllowedError("the members of a cohort may not change")
            return self._sealed
        self._check_size(len(peers) + 1)
        if len(peers) > MAX_PEERS:
            raise BadInputError(f"it has {len(peers)} peers for this device; a member has {MAX_PEERS} at most")
        own = self.advertise().keys
        keys = [own.sealing, own.masking, *(key for each in peers.values() for key in (each.sealing, each.masking))]
        if self._number in peers or len(set(keys)) < len(keys):
            raise BadInputError("two members of the cohort have the same key")
        self._agreements = {
            peer: primitives.agreed(self._sealing_key, public.sealing) for peer, public in peers.items()
        }
        self._sealed = self._sealed_for(sorted(peers)) if sealed is None else dict(sealed)
        self._peers = dict(peers)
        return self._sealed

    def mask(self, values: NDArray[np.int64], sealed: Mapping[int, bytes]) -> Words:
        """Return the masked vector, uint64 ``[length]``; ``sealed`` are the shares of those peers that sent theirs.

        ``values`` is int64 ``[length]``.

        Shares that are damaged are left out: this member reveals none of that peer's.

        :raises NotAllowedError: other values were masked before, or too few peers sent shares.
        :raises BadInputError: shares are of somebody else than a peer, or a value is out of bounds.
        """
        if values.shape != (self._session.length,) or not self._are_small(values):
            raise BadInputError(f"a vector has {self._session.length} numbers of at most {self._session.largest}")
        contents = values.astype("<i8").tobytes()
        if self._masked is not None:
            if self._masked[0] != contents or sealed.keys() != self._sharers:
                raise NotAllowedError("a member masks one vector in a session")
            return self._masked[1]
        if not sealed.keys() <= self._peers.keys():
            raise BadInputError("there are shares of a member that is not a peer")
        self._check_count(len(sealed))
        masked = values.astype(np.uint64) + primitives.self_mask_words(self._self_mask, self._session.id, len(values))
        for peer in sealed:
            mask = self._pair_mask(peer)
            masked = masked + mask if self._number < peer else masked - mask
        opened = {peer: self._unsealed(peer, box) for peer, box in sealed.items()}
        self._held = {peer: shares for peer, shares in opened.items() if len(shares) == 2 * SHARE_BYTES}
        self._sharers, self._masked = frozenset(sealed), (contents, masked)
        return masked

    def unmask(self, survivors: Collection[int]) -> Unmasking:
        """Return for each peer that sent shares a share of one of its secrets, never of both.

        ``survivors`` are the peers whose masked vectors are in the sum.

        :raises NotAllowedError: too few are, or this member has answered for others.
        :raises BadInputError: one of them is not a peer that sent shares.
        """
        found = frozenset(survivors) - {self._number}
        if self._answered is not None:
            if self._answered[0] != found:
                raise NotAllowedError("a member unmasks one sum in a session")
            return self._answered[1]
        if self._masked is None or not found <= self._sharers:
            raise BadInputError("the sum has members that sent no shares")
        self._check_size(len(found) + 1)
        self._check_count(len(found))
        answer = Unmasking(
            {peer: self._held[peer][:SHARE_BYTES] for peer in sorted(self._held.keys() & found)},
            {peer: self._held[peer][SHARE_BYTES:] for peer in sorted(self._held.keys() - found)},
        )
        self._answered = found, answer
        self._held = {}  # nothing is left that could be revealed
        return answer

    def _are_small(self, values: NDArray[np.int64]) -> bool:
        return bool(np.all((values <= self._session.largest) & (values >= -self._session.largest)))

    def _check_size(self, members: int) -> None:
        if members < self._least:
            raise NotAllowedError(
                f"it asks for a sum over {members} devices, this device takes part in sums over {self._least} or more"
            )

    def _check_count(self, peers: int) -> None:
        if peers < threshold(len(self._peers)):
            raise NotAllowedError(f"only {peers} of {len(self._peers)} peers are left, too few to unmask a sum")

    def _sealed_for(self, peers: Sequence[int]) -> Mapping[int, bytes]:
        masks = primitives.split(self._self_mask, len(peers), threshold(len(peers)))
        keys = primitives.split(self._masking_secret, len(peers), threshold(len(peers)))
        return {
            peer: primitives.seal(self._agreements[peer], self._session.id, self._number, peer, mask + key)
            for peer, mask, key in zip(peers, masks, keys, strict=True)
        }

    def _unsealed(self, peer: int, box: bytes) -> bytes:
        """Return the peer's shares; nothing if they are damaged or not for this member."""
        try:
            return primitives.unseal(self._agreements[peer], self._session.id, peer, self._number, box)
        except IntegrityError:
            return b""

    def _pair_mask(self, peer: int) -> Words:
        agreement = primitives.agreed(self._masking_key, self._peers[peer].masking)
        return primitives.pair_mask_words(agreement, self._session.id, self._number, peer, self._session.length)
