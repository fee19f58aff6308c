"""What secure aggregation costs a device in a round, beside Flower's SecAgg+ on a vector of the same length."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.coordinator.flower import install
from fwdllm.v1 import device_pb2
from fwdllm_common.packing import halves
from fwdllm_common.secure_aggregation import Aggregation, Member, Session, messages, peers_of_all
from fwdllm_common.secure_aggregation.cohort import MAX_PEERS

LENGTH = 4612
"""Scalars of a round of the default job on four labels."""
REPETITIONS = {20: 3, 100: 3, 500: 1}
"""By cohort."""
_LARGEST = 1 << 43

Cost = Mapping[str, float]
"""``up`` and ``down`` bytes, ``cpu_s`` of a device, the mean over the cohort, and ``server_s``, CPU seconds."""


def plain(length: int = LENGTH) -> Cost:
    """Return what a device without secure aggregation sends: its scalars packed."""
    values = np.random.default_rng(0).normal(size=length).tolist()
    began = time.process_time()
    request = device_pb2.ReportRequest(assignment_id="0" * 32, halves=halves(values))
    up = request.ByteSize()
    return {"up": up, "down": 0.0, "cpu_s": time.process_time() - began, "server_s": 0.0}


def ours(cohort: int, length: int = LENGTH) -> Cost:
    """Run one aggregation in this process, in messages of the wire contract, and check its sum."""
    seed = bytes(32)
    session = Session(seed, length, _LARGEST)
    aggregation = Aggregation(session, peers_of_all(range(cohort), seed))
    values = np.random.default_rng(cohort).integers(-(1 << 40), 1 << 40, size=(cohort, length))
    up = down = 0
    spent = {"device": 0.0, "server": 0.0}
    members = {}

    class Clock:
        def __init__(self, who: str) -> None:
            self.who = who

        def __enter__(self) -> None:
            self.began = time.process_time()

        def __exit__(self, *_: object) -> None:
            spent[self.who] += time.process_time() - self.began

    device, server = Clock("device"), Clock("server")
    for number in range(cohort):
        with device:
            members[number] = Member(session, number)
            keys = device_pb2.AggregateRequest(keys=messages.keys_message(members[number].advertise()))
        up += keys.ByteSize()
        with server:
            aggregation.advertise(number, messages.advertisement_of(keys.keys))
    for number, member in members.items():
        with server:
            told = device_pb2.AggregateResponse(keys=messages.peers_message(aggregation.keys_for(number)))
        down += told.ByteSize()
        with device:
            sealed = member.share(messages.peers_of(told.keys))
            shares = device_pb2.AggregateRequest(shares=device_pb2.MemberShares(peers=sealed))
        up += shares.ByteSize()
        with server:
            aggregation.share(number, dict(shares.shares.peers))
    for number, member in members.items():
        with server:
            told = device_pb2.AggregateResponse(shares=device_pb2.MemberShares(peers=aggregation.sealed_for(number)))
        down += told.ByteSize()
        with device:
            words = messages.words_message(member.mask(values[number], dict(told.shares.peers)))
            masked = device_pb2.AggregateRequest(masked=words)
        up += masked.ByteSize()
        with server:
            aggregation.mask(number, messages.words_of(masked.masked))
    for number, member in members.items():
        with server:
            told = device_pb2.AggregateResponse(survivors=device_pb2.Survivors(peers=aggregation.survivors_for(number)))
        down += told.ByteSize()
        with device:
            revealed = messages.unmasking_message(member.unmask(told.survivors.peers))
            unmasking = device_pb2.AggregateRequest(unmasking=revealed)
        up += unmasking.ByteSize()
        with server:
            aggregation.unmask(number, messages.unmasking_of(unmasking.unmasking))
    with server:
        total = aggregation.sum()
    if not np.array_equal(total, values.sum(axis=0)):
        raise RuntimeError("the sum is not that of the values")
    return {"up": up / cohort, "down": down / cohort, "cpu_s": spent["device"] / cohort, "server_s": spent["server"]}


def flowers(environment: Path, cohort: int, length: int = LENGTH) -> Cost:
    """Run one aggregation of Flower's, with as many peers."""
    program = Path(__file__).with_name("flower_peer.py")
    command = [str(environment / "bin" / "python"), str(program), str(cohort), str(length), str(MAX_PEERS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Cost = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(
    folder: Path, repetitions: Mapping[int, int], length: int, only_kept: bool = False
) -> Mapping[str, Mapping[str, Any]]:
    """Measure each cohort and keep it in ``folder``: the median of its repetitions, which take turns.

    With ``only_kept`` nothing is measured.
    """
    environment = folder / "flower" if only_kept else install(folder / "flower")
    found: dict[str, Mapping[str, Any]] = {}
    for cohort, times in repetitions.items():
        kept = folder / f"secagg.{cohort}.json"
        if not kept.exists():
            if only_kept:
                continue
            both: dict[str, list[Cost]] = {"ours": [], "flower": []}
            for _ in range(times):
                both["ours"].append(ours(cohort, length))
                both["flower"].append(flowers(environment, cohort, length))
            medians = {who: _median(costs) for who, costs in both.items()}
            kept.write_text(json.dumps({**medians, "repetitions": times}), encoding="utf-8")
        found[str(cohort)] = json.loads(kept.read_text(encoding="utf-8"))
        print(f"cohort of {cohort}: {found[str(cohort)]}", flush=True)
    return found


def _median(costs: list[Cost]) -> Cost:
    return {name: median(cost[name] for cost in costs) for name in costs[0]}
