"""Every decoder of untrusted bytes: what comes in is refused with an error of ours, or is a value."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.bundles import MANIFEST
from common.runs import KINDS, LAYOUT, initial_state, round_of
from common.test_join_token import TOKEN
from google.protobuf.message import DecodeError

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm_client.agent.journal import Journal
from fwdllm_client.connection.keys import certificate_request, new_key
from fwdllm_common.job_choice import JobChoice
from fwdllm_common.join_token import JoinToken
from fwdllm_common.known_answers import KnownAnswerTest
from fwdllm_common.layout import Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.manifest import Manifest
from fwdllm_common.protocol import GENERATOR_VERSION, PROTOCOL_MAJOR
from fwdllm_common.replay import ModelState

STATE = initial_state(KINDS[2])
TEST = KnownAnswerTest(
    [[1, 2], [3]], [0, 1], np.ones(3, np.float32), {"head": 0.1}, False, {"head": [1.0]}, {"head": [1.0]}
)
CHECK_IN = device_pb2.CheckInRequest(
    protocol=device_pb2.ProtocolVersion(major=PROTOCOL_MAJOR),
    generator_version=GENERATOR_VERSION,
    labels=["a", "b"],
    training_examples=10,
    jobs=device_pb2.JobChoice(only=True, names=["x"]),
)
SEGMENT = ledger_pb2.LedgerSegment(entries=[round_of(1).to_message()])
TASK = device_pb2.DirectionTask(block="head", seeds=[device_pb2.SeedRange(first=5, count=7)], epsilon=0.1, batch_size=4)


@dataclass(frozen=True)
class Target:
    """A decoder, what it is given to begin with, and its part of all messages, by how long it takes."""

    decode: Callable[[bytes], object]
    seeds: Sequence[bytes]
    weight: float = 1.0


def _layout(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    Layout.from_json(value)


def _check_in(data: bytes) -> None:
    from fwdllm_server.rpc.device_service import check_check_in  # the whole server, which no other decoder needs

    request = device_pb2.CheckInRequest.FromString(data)
    check_check_in(request)
    JobChoice.from_message(request.jobs)


def _task(data: bytes) -> None:
    from fwdllm_client.engine import DirectionTask

    DirectionTask.from_message(device_pb2.DirectionTask.FromString(data))


def _request(data: bytes) -> None:
    from fwdllm_server.security.requests import parse_request

    parse_request(data)


def _segment(data: bytes) -> None:
    for entry in ledger_pb2.LedgerSegment.FromString(data).entries:
        LedgerEntry.from_message(entry)


def _journal(data: bytes) -> None:
    """A cell of the device's own file, which may have been written by anything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with closing(Journal(path)):
            pass
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(
                "INSERT INTO entries (assignment_id, first_index, derivatives, seconds, example_passes) "
                "VALUES (?, ?, ?, ?, ?)",
                (data[:3].decode("latin-1"), data[3:5], data[5:], 0.0, 0.0),
            )
        with closing(Journal(path)) as journal:
            journal.unacknowledged()


TARGETS: Mapping[str, Target] = {
    "manifest": Target(Manifest.from_bytes, [MANIFEST.to_bytes()]),
    "layout": Target(_layout, [json.dumps(LAYOUT.to_json()).encode()]),
    "ledger-entry": Target(LedgerEntry.from_bytes, [round_of(1).to_bytes()]),
    "ledger-segment": Target(
        _segment, [ledger_pb2.LedgerSegment(entries=[round_of(1).to_message()]).SerializeToString()]
    ),
    "run-header": Target(RunHeader.from_bytes, [STATE.header.to_bytes()]),
    "snapshot": Target(lambda data: ModelState.from_bytes(STATE.header, LAYOUT, data), [STATE.to_bytes()]),
    "known answers": Target(KnownAnswerTest.from_bytes, [TEST.to_bytes()]),
    "join-token": Target(lambda data: JoinToken.decode(data.decode("latin-1")), [TOKEN.encode().encode()]),
    "check-in": Target(_check_in, [CHECK_IN.SerializeToString()]),
    "direction-task": Target(_task, [TASK.SerializeToString()]),
    "certificate-request": Target(_request, [certificate_request(new_key())], weight=0.2),
    "journal": Target(_journal, [b"abc" + bytes(10)], weight=0.01),
}
REFUSALS = (DecodeError,)
"""What gRPC itself refuses before a decoder of ours sees it."""
