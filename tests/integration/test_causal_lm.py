"""Causal language modelling over the wire: real agents with prompts and completions teach a tiny decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.serving import serving
from helpers.tiny_completions import as_messages, completions, save_language_model, write_rows
from helpers.tiny_job import job_toml
from server.rpc.loopback import make_home

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, SubmitJobRequest
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.causal_lm import CompletionSource
from fwdllm_server.cli.progress import line

NAMES = ("device-1", "device-2")
TASK = "causal-lm"
SECTIONS: dict[str, dict[str, Any] | None] = {
    "job": {"name": "tiny", "seed": 3},
    "model": {"source": "model", "labels": None, "task": TASK, "max_tokens": 16},
    "peft": {"method": "lora", "rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.jsonl"},
    "rounds": {"count": 4, "min_devices": 2, "evaluate_every": 1, "federated_evaluate_every": 1},
    "blocks.head": None,
    "blocks.peft": {"directions": 96, "batch_size": 16, "learning_rate": 0.05},
}


async def test_agents_with_completions_bring_a_job_to_its_end(quick: None, tmp_path: Path) -> None:
    save_language_model(tmp_path / "model")
    write_rows(tmp_path / "held_out.jsonl", completions(30, seed=0))
    write_rows(tmp_path / "device-1.jsonl", completions(30, seed=1))
    write_rows(tmp_path / "device-2.jsonl", [as_messages(row) for row in completions(30, seed=2)])
    async with serving(make_home(tmp_path / "server")) as server:
        await server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(SECTIONS), base_folder=str(tmp_path)))
        await server.join(*NAMES, "labelled")
        await server.until_evaluated()
        # A device of an earlier version names no such task, and so never gets the bundle.
        labelled = await server.device("labelled")
        answer = await labelled.check_in()
        assert not answer.HasField("assignment")
        assert f"the job is for {TASK}, the data of this device is for classification" in answer.message
        policies = dict.fromkeys(NAMES, Policy())
        async with server.agents(tmp_path, policies, 0.2, CompletionSource, "jsonl"):
            job = await server.until_state(JOB_STATE_DONE)

    assert job.rounds_committed == 4
    assert all(device.scalars > 0 for device in job.devices)
    first, last = job.initial_evaluation, job.latest_evaluation
    assert (last.version, last.rows, last.federated_rows) == (4, 30, 12)
    assert last.loss < first.loss
    assert last.perplexity == pytest.approx(2.718281828**last.loss)
    assert (last.metric, last.exact_match <= last.accuracy) == ("token accuracy", True)
    assert f"perplexity {last.perplexity:.4g}, token accuracy " in line(job)
    assert f"began at {first.perplexity:.4g}" in line(job)
