"""Differential privacy over the wire: real agents, whose job ends at its budget."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny_text import write_rows

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE
from fwdllm_client.agent.journal import Journal
from fwdllm_client.policy.policy import Policy
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.packing import packed

AUTO = {"directions": "auto", "batch_size": "auto"}
BUDGET = {"epsilon": 8.0, "delta": 1e-5, "clip": 0.5, "rounds_per_device": 1}


async def run(start, folder, privacy, size):
    names = [f"device-{number}" for number in range(1, size + 1)]
    sections = {"privacy": privacy, "blocks.head": AUTO, "blocks.peft": AUTO}
    server = await start(sections, count=3, min_devices=size, max_devices=size)
    await server.join(*names[4:])
    for number, name in enumerate(names, start=1):
        write_rows(folder / f"{name}.csv", 16 + 4 * number, seed=number)
    async with server.agents(folder, dict.fromkeys(names, Policy()), 0.2):
        job = await server.until_state(JOB_STATE_DONE)
    (entry,) = map(LedgerEntry.from_bytes, server.ledger())
    return job, entry


def is_at_its_budget(job) -> bool:
    budget = job.privacy_budget
    assert job.rounds_committed == 1 < job.rounds_wanted
    assert (budget.releases, budget.releases_allowed) == (1, 1)
    assert 7.9 < budget.epsilon_spent <= budget.epsilon == 8.0
    return job.message.startswith("privacy budget spent:")


async def test_the_coordinator_adds_noise_and_ends_the_job_at_its_budget(start, workplace, tmp_path):
    job, entry = await run(start, tmp_path, BUDGET, 4)

    assert is_at_its_budget(job)
    assert all(len(update.seeds) & (len(update.seeds) - 1) == 0 for update in entry.updates)  # one frame, not four


async def test_devices_add_noise_and_the_job_ends_at_its_budget(start, workplace, tmp_path, monkeypatch):
    pytest.importorskip("cryptography")
    kept = []
    join = Journal.join

    def joins(journal, membership):
        kept.append(np.frombuffer(membership.scalars, dtype="<i8"))
        join(journal, membership)

    monkeypatch.setattr(Journal, "join", joins)
    job, entry = await run(start, tmp_path, {**BUDGET, "secure_aggregation": True}, 8)

    assert is_at_its_budget(job)
    mean = (2 * sum(kept) + 8) // 16
    parts = np.split(mean, np.cumsum([len(each.seeds) for each in entry.updates])[:-1])
    noised = [packed(part).integers().tolist() for part in parts]
    assert [each.coefficients.tolist() for each in entry.updates] == noised
