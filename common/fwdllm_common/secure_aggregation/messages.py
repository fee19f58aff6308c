"""The messages of secure aggregation as they go over the wire; whatever a field is, a wrong one is a bad input."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np

from fwdllm.v1 import device_pb2
from fwdllm_common.errors import BadInputError
from fwdllm_common.fixed_point import MAX_MAGNITUDE, SCALE
from fwdllm_common.secure_aggregation.cohort import Advertisement, PublicKeys, Session, Unmasking
from fwdllm_common.secure_aggregation.primitives import Words

MAX_WEIGHT = 8
"""Largest weight of a member: none counts for more than so many times another, whatever a coordinator says."""


def session_of(assignment: device_pb2.Assignment) -> Session:
    """Return the session in which devices sum the fixed-point scalars of an assignment times their weights.

    Its id is a hash of all that scalars depend on: the masks of devices that were asked for something else do not
    cancel. Otherwise a coordinator would ask all devices but one for scalars that are 0, and the sum would be that
    device's own (Pasquini et al., CCS 2022).
    """
    parts = [
        assignment.secure_aggregation.session,
        assignment.job_id.encode(),
        assignment.header.SerializeToString(deterministic=True),
        assignment.manifest_sha256,
        assignment.version.to_bytes(8, "little"),
        assignment.theta_digest,
        *(task.SerializeToString(deterministic=True) for task in assignment.directions),
    ]
    if assignment.secure_aggregation.clip:
        # Noise that others have been told not to add would be missing in the sum.
        parts.append(struct.pack("<dd", assignment.secure_aggregation.clip, assignment.secure_aggregation.noise))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    length = sum(seeds.count for task in assignment.directions for seeds in task.seeds)
    return Session(digest.digest(), length, MAX_MAGNITUDE * SCALE * MAX_WEIGHT)


def keys_message(advertisement: Advertisement) -> device_pb2.MemberKeys:
    """Return a member's first message."""
    keys = advertisement.keys
    return device_pb2.MemberKeys(sealing=keys.sealing, masking=keys.masking, commitment=advertisement.commitment)


def advertisement_of(message: device_pb2.MemberKeys) -> Advertisement:
    """Return the inverse of :func:`keys_message`."""
    return Advertisement(PublicKeys(message.sealing, message.masking), message.commitment)


def peers_message(peers: Mapping[int, PublicKeys]) -> device_pb2.PeerKeys:
    """Return the keys of a member's peers."""
    found = {
        peer: device_pb2.MemberKeys(sealing=keys.sealing, masking=keys.masking) for peer, keys in sorted(peers.items())
    }
    return device_pb2.PeerKeys(peers=found)


def peers_of(message: device_pb2.PeerKeys) -> Mapping[int, PublicKeys]:
    """Return the inverse of :func:`peers_message`."""
    return {peer: PublicKeys(keys.sealing, keys.masking) for peer, keys in sorted(message.peers.items())}


def unmasking_message(unmasking: Unmasking) -> device_pb2.UnmaskingShares:
    """Return a member's last message."""
    return device_pb2.UnmaskingShares(self_masks=unmasking.self_masks, masking_keys=unmasking.masking_keys)


def unmasking_of(message: device_pb2.UnmaskingShares) -> Unmasking:
    """Return the inverse of :func:`unmasking_message`."""
    return Unmasking(dict(message.self_masks), dict(message.masking_keys))


def words_message(words: Words) -> bytes:
    """Return masked scalars, uint64 ``[length]``, as bytes."""
    return words.astype("<u8").tobytes()


def words_of(message: bytes) -> Words:
    """Return the inverse of :func:`words_message`."""
    if len(message) % 8:
        raise BadInputError("masked scalars have 8 bytes each")
    return np.frombuffer(message, dtype="<u8").astype(np.uint64)
