"""Secure aggregation over the wire: real agents, whose ledger is the plain mean of the same scalars."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.serving import TURNS, Serving
from helpers.tiny_text import write_rows

from fwdllm.v1 import device_pb2
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE
from fwdllm_client.agent.journal import Journal, Membership
from fwdllm_client.connection.retry import StopRequested
from fwdllm_client.connection.transport import GrpcCoordinator
from fwdllm_client.policy.policy import Policy
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.packing import packed
from fwdllm_server.store import aggregations
from fwdllm_server.store.aggregations import Step

AUTO = {"directions": "auto", "batch_size": "auto"}
SECURED = {"privacy": {"secure_aggregation": True}, "blocks.head": AUTO, "blocks.peft": AUTO}
ACCEPT_S = 50


class Wire:
    """What devices send and keep; ``vanish`` names messages of which the first one's device ends instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *vanish: str) -> None:
        self.memberships: dict[str, Membership] = {}
        self.sent: dict[tuple[str, str], bytes] = {}
        self.gone: dict[str, str] = {}
        self._vanish = list(vanish)
        self._lock = threading.Lock()
        join, aggregate = Journal.join, GrpcCoordinator.aggregate

        def joins(journal: Journal, membership: Membership) -> None:
            self.memberships[membership.assignment_id] = membership
            join(journal, membership)

        def sends(coordinator: GrpcCoordinator, request: device_pb2.AggregateRequest) -> device_pb2.AggregateResponse:
            kind, work = str(request.WhichOneof("message")), request.assignment_id
            with self._lock:
                if kind in self._vanish and work not in self.gone.values():
                    self._vanish.remove(kind)
                    self.gone[kind] = work
            if self.gone.get(kind) == work:
                raise StopRequested
            self.sent[work, kind] = request.SerializeToString()
            return aggregate(coordinator, request)

        monkeypatch.setattr(Journal, "join", joins)
        monkeypatch.setattr(GrpcCoordinator, "aggregate", sends)

    def mean(self, entry: LedgerEntry, without: frozenset[str] = frozenset()) -> list[int]:
        """The weighted mean of the scalars that devices have kept, in the way of the ledger."""
        those = [each for each in self.memberships.values() if each.assignment_id not in without]
        weights = [device_pb2.SecureAggregation.FromString(each.agreement).weight for each in those]
        total, together = sum(np.frombuffer(each.scalars, dtype="<i8") for each in those), sum(weights)
        mean = (2 * total + together) // (2 * together)
        parts = np.split(mean, np.cumsum([len(each.seeds) for each in entry.updates])[:-1])
        return [c for each, part in zip(entry.updates, parts, strict=True) for c in packed(part).integers().tolist()]


async def fleet(start, workplace: Path, folder: Path, size: int) -> tuple[Serving, dict[str, Policy]]:
    """A server whose secured job waits for so many devices, which have joined it, and the devices' policies."""
    names = [f"device-{number}" for number in range(1, size + 1)]
    server = await start(SECURED, count=1, min_devices=size, max_devices=size)
    await server.join(*names[4:])
    for number, name in enumerate(names, start=1):
        write_rows(folder / f"{name}.csv", 16 + 4 * number, seed=number)
    return server, dict.fromkeys(names, Policy())


def coefficients(server: Serving) -> tuple[LedgerEntry, list[int]]:
    (data,) = server.ledger()
    entry = LedgerEntry.from_bytes(data)
    return entry, [c for each in entry.updates for c in each.coefficients.tolist()]


async def test_agents_make_the_ledger_that_is_the_mean_of_their_scalars(start, workplace, tmp_path, monkeypatch):
    wire = Wire(monkeypatch)
    server, policies = await fleet(start, workplace, tmp_path, 8)
    async with server.agents(tmp_path, policies, 0.2):
        job = await server.until_state(JOB_STATE_DONE)

    entry, found = coefficients(server)
    assert found == wire.mean(entry)
    assert (job.rounds_committed, job.rounds_abandoned) == (1, 0)
    assert len({each.scalars for each in wire.memberships.values()}) == 8  # each has measured something else
    for each in wire.memberships.values():
        for place in range(0, len(each.scalars), 16):  # two numbers are not there by chance
            assert not any(each.scalars[place : place + 16] in message for message in wire.sent.values())


async def test_agents_vanish_before_and_after_they_have_masked(start, clock, workplace, tmp_path, monkeypatch):
    wire = Wire(monkeypatch, "masked", "unmasking")
    server, policies = await fleet(start, workplace, tmp_path, 10)
    async with server.agents(tmp_path, policies, 0.2):
        for step in (Step.MASKED, Step.UNMASKING):
            await _until_one_is_missing(server, step)
            clock.now += ACCEPT_S + 1
        await server.until_state(JOB_STATE_DONE)

    entry, found = coefficients(server)
    assert set(wire.gone) == {"masked", "unmasking"}
    assert found == wire.mean(entry, without=frozenset({wire.gone["masked"]}))


async def _until_one_is_missing(server: Serving, step: Step) -> None:
    for _ in range(TURNS):
        job = await server.job()
        with server.runtime.database.transaction() as connection:
            record = aggregations.get(connection, job.job_id, 1)
            if record and record.step is step and len(aggregations.waiting_for(connection, record)) == 1:
                break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError(f"the step {step} never waits for one device alone")
    server.coordinator.wake()
