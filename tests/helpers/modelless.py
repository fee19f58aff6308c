"""A server's directory with a job that has no model: rounds run, reports count, and nothing waits for an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.serving import TURNS, ScriptedDevice, Serving
from helpers.tiny_job import LABELS, add_tiny_job, job_toml
from server.rpc.loopback import make_home

from fwdllm.v1.operator_pb2 import JOB_STATE_RUNNING, Job
from fwdllm_server.config.home import ServerHome
from fwdllm_server.store import ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.ledger import EvaluationRecord

JOB_ID = "job1"
_PATIENCE_S = 10_000.0


def home_with_job(folder: Path, store_url: str = "", **rounds: Any) -> ServerHome:
    """A new server's directory whose job "tiny" waits for two devices, and for nobody's deadline."""
    home = make_home(folder)
    use_store(home, store_url)
    patience = dict.fromkeys(("accept_s", "deadline_s", "assignment_s"), _PATIENCE_S)
    keys = {"count": 3, "min_devices": 2, **patience, **rounds}
    keys["evaluate_every"] = keys["count"]
    database = Database(home.database_url(home.config()))
    blocks = {"blocks.head": {"directions": 12}, "blocks.peft": {"directions": 8}}
    add_tiny_job(database, ArtifactStore(home.artifacts), job_toml({"rounds": keys, **blocks}), JOB_ID)
    with database.transaction() as connection:
        for version in (0, keys["count"]):  # as if they had been evaluated: there is nothing to evaluate with
            ledger.add_evaluation(connection, JOB_ID, EvaluationRecord(version, 0.5, 0.7, 10))
    database.close()
    return home


def use_store(home: ServerHome, url: str) -> None:
    """Configure another database than the directory's own."""
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace('url = ""', f'url = "{url}"'))


async def work_until_done(server: Serving, *devices: ScriptedDevice) -> Job:
    """The devices do whatever they are given until the job is done."""
    for _ in range(TURNS):
        for device in devices:
            answer = await device.check_in(labels=LABELS)
            if answer.HasField("assignment"):
                await device.finish(answer.assignment)
        job = await server.job()
        if job.state != JOB_STATE_RUNNING:
            return job
    raise AssertionError(f"never done: {job}")
