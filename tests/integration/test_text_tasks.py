"""Tasks of texts over the wire: real agents with rows of each bring a job to its end, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import serving
from helpers.tiny_job import job_toml
from helpers.tiny_tasks import label_rows, pair_rows, save_bert, tagged_rows, value_rows, write_rows
from server.rpc.loopback import make_home

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, GetJobRequest, SubmitJobRequest
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks import task_named
from fwdllm_server.cli.progress import line

NAMES = ("device-1", "device-2")
pytestmark = pytest.mark.timeout(900)  # a model is exported for each task


@dataclass(frozen=True)
class Case:
    rows: Callable[[int, int], list[dict[str, Any]]]
    metrics: tuple[str, str]
    pooling: str | None = "mean"


CASES = {
    "pair-classification": Case(pair_rows, ("accuracy", "")),
    "regression": Case(value_rows, ("Pearson", "Spearman")),
    "multi-label": Case(label_rows, ("micro F1", "macro F1")),
    "token-classification": Case(tagged_rows, ("F1", "token accuracy"), None),
}


def sections(task: str) -> dict[str, dict[str, Any] | None]:
    return {
        "job": {"name": "tiny", "seed": 3},
        "model": {"source": "model", "labels": None, "task": task, "max_tokens": 16, "pooling": CASES[task].pooling},
        "peft": {"rank": 2, "layers": [-1]},
        "held_out": {"file": "held_out.jsonl"},
        "rounds": {"count": 3, "min_devices": 2, "evaluate_every": 1},
        "blocks.head": {"directions": 128, "batch_size": 16, "learning_rate": 0.001},
        "blocks.peft": {"directions": 8, "batch_size": 8, "learning_rate": 0.0001},
    }


@pytest.mark.parametrize("task", CASES)
async def test_agents_bring_a_job_to_its_end(task: str, quick: None, tmp_path: Path) -> None:
    case = CASES[task]
    save_bert(tmp_path / "model")
    for name, seed in (("held_out", 1), *((name, seed) for seed, name in enumerate(NAMES, start=1))):
        # Three rounds need not learn what other rows have; what devices train on has to fall.
        write_rows(tmp_path / f"{name}.jsonl", case.rows(60, seed))
    async with serving(make_home(tmp_path / "server")) as server:
        await server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(sections(task)), base_folder=str(tmp_path)))
        await server.join(*NAMES, "other")
        await server.until_evaluated()
        # A device of an earlier version names no such task, and so never gets the bundle.
        answer = await (await server.device("other")).check_in()
        assert not answer.HasField("assignment")
        assert f"the job is for {task}, the data of this device is for classification" in answer.message
        source = partial(task_named(task).source)
        async with server.agents(tmp_path, dict.fromkeys(NAMES, Policy()), 0.2, source, "jsonl"):
            job = await server.until_state(JOB_STATE_DONE)
        again = await server.operator.GetJob(GetJobRequest(job="tiny"))

    assert (job.rounds_committed, len(job.devices)) == (3, 2)
    assert all(device.scalars > 0 for device in job.devices)
    first, last = job.initial_evaluation, again.latest_evaluation
    assert (last.version, last.rows) == (3, 60)
    assert last.loss < first.loss
    assert (last.metric, last.metric_beside) == case.metrics
    shown = f"{last.metric} {last.accuracy:.1%}"
    if last.metric_beside:
        shown += f", {last.metric_beside} {last.exact_match:.1%}"
    assert shown in line(again)
