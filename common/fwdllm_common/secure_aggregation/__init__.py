"""Secure aggregation: the coordinator learns the sum of a cohort's integers, and no member's own (docs/privacy.md).

The protocol is that of Bonawitz et al. (CCS 2017), for members and a coordinator that follow it but read everything, on
a regular graph of peers (Bell et al., CCS 2020). A member sends four messages: its keys, a sealed share of its secrets
for each peer, its masked vector, and shares that unmask the sum. Both sides are state machines without a network.

``cryptography`` and ``shamirs`` are needed, which a device without them cannot import.
"""

from fwdllm_common.secure_aggregation.aggregation import Aggregation, NotEnoughMembersError
from fwdllm_common.secure_aggregation.cohort import (
    MAX_MEMBERS,
    MIN_MEMBERS,
    Advertisement,
    PublicKeys,
    Session,
    Unmasking,
    peers_of_all,
    threshold,
)
from fwdllm_common.secure_aggregation.member import Member

__all__ = [
    "MAX_MEMBERS",
    "MIN_MEMBERS",
    "Advertisement",
    "Aggregation",
    "Member",
    "NotEnoughMembersError",
    "PublicKeys",
    "Session",
    "Unmasking",
    "peers_of_all",
    "threshold",
]
