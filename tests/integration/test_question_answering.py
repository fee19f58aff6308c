"""Question answering over the wire: real agents with questions, and who is told that the job is not theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.serving import refusal, serving
from helpers.tiny_job import job_toml
from helpers.tiny_questions import save_encoder, write_questions
from server.rpc.loopback import make_home

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, SubmitJobRequest
from fwdllm_client.policy.policy import Policy
from fwdllm_client.tasks.question_answering import QuestionSource

NAMES = ("device-1", "device-2")
TASK = "question-answering"
SECTIONS: dict[str, dict[str, Any]] = {
    "job": {"name": "tiny", "seed": 3},
    "model": {"source": "model", "labels": None, "task": TASK, "max_tokens": 16},
    "peft": {"rank": 2, "layers": [-1]},
    "held_out": {"file": "held_out.jsonl"},
    "rounds": {"count": 3, "min_devices": 2, "evaluate_every": 1, "federated_evaluate_every": 1},
    "blocks.head": {"directions": 64, "batch_size": 16, "learning_rate": 0.2},
    "blocks.peft": {"directions": 8, "batch_size": 8, "learning_rate": 0.01},
}


async def test_agents_with_questions_bring_a_job_to_its_end(quick: None, tmp_path: Path) -> None:
    save_encoder(tmp_path / "model")
    write_questions(tmp_path / "held_out.jsonl", 30, seed=0)
    for number, name in enumerate(NAMES, start=1):
        write_questions(tmp_path / f"{name}.jsonl", 30, seed=number)
    async with serving(make_home(tmp_path / "server")) as server:
        await server.operator.SubmitJob(SubmitJobRequest(spec_toml=job_toml(SECTIONS), base_folder=str(tmp_path)))
        await server.join(*NAMES, "labelled")
        await server.until_evaluated()
        labelled = await server.device("labelled")
        answer = await labelled.check_in()
        assert not answer.HasField("assignment")
        assert answer.message == (
            "this device cannot take part in any running job: tiny: "
            f"the job is for {TASK}, the data of this device is for classification"
        )
        for changes, words in (
            ({"task": TASK}, f"number of labels for {TASK} is 3; 0 to 0 are allowed"),
            ({"task": "translation"}, "task 'translation' is not known here; update the coordinator"),
        ):
            _, reason, said = await refusal(labelled.check_in(**changes))
            assert (reason, said) == ("bad-field", words)
        policies = dict.fromkeys(NAMES, Policy())
        async with server.agents(tmp_path, policies, 0.2, QuestionSource, "jsonl"):
            job = await server.until_state(JOB_STATE_DONE)

    assert (job.rounds_committed, job.directions) == (3, 216)
    assert all(device.scalars > 0 for device in job.devices)
    assert len(job.devices) == len(NAMES)
    first, last = job.initial_evaluation, job.latest_evaluation
    assert (last.version, last.rows, last.federated_rows) == (3, 30, 12)
    assert last.HasField("exact_match")
    assert last.exact_match <= last.accuracy
    assert last.loss < first.loss
    assert 0 <= last.federated_exact_match <= last.federated_accuracy <= 1
