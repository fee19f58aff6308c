"""Compute the traffic of a round of one device in the PEFT block, from the messages themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fwdllm.v1 import device_pb2
from fwdllm_common.ledger import BlockUpdate, LedgerEntry
from fwdllm_common.protocol import MAX_SCALARS_PER_REPORT
from fwdllm_server.model.trainable import PEFT_BLOCK
from fwdllm_server.profiler.scalars import Scalars

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Traffic:
    """Bytes of the reports (``up``), and of the round's ledger entry or a snapshot of θ, the smaller one (``down``)."""

    up: int
    down: int


def traffic_of_round(scalars: Scalars, directions: int, snapshot_bytes: int) -> Traffic:
    """Return the traffic of a round with the first ``directions`` of ``scalars``."""
    firsts = range(0, directions, MAX_SCALARS_PER_REPORT)
    reports = [
        device_pb2.ReportRequest(
            first_index=first, derivatives=np.zeros(min(directions - first, MAX_SCALARS_PER_REPORT))
        )
        for first in firsts
    ]
    part = slice(directions)
    update = BlockUpdate(PEFT_BLOCK, scalars.seeds[part], scalars.coefficients[part], np.float32(1))
    entry = LedgerEntry(1, (update,), bytes(_DIGEST_BYTES))
    return Traffic(sum(report.ByteSize() for report in reports), min(len(entry.to_bytes()), snapshot_bytes))
