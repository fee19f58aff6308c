"""A learning rate that is far too high: the job fails at once, and what is exported is of use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.serving import Serving, change_job, serving
from safetensors.numpy import load

from fwdllm.v1.operator_pb2 import JOB_STATE_FAILED, ExportAdapterRequest, GetJobRequest
from fwdllm_server.config.home import ServerHome

RUN = GetJobRequest(job="tiny")


async def exported(server: Serving) -> np.ndarray:
    """The head's weights in the adapter."""
    files: dict[str, bytes] = {}
    async for chunk in server.operator.ExportAdapter(ExportAdapterRequest(job=RUN.job), timeout=60):
        files[chunk.file_name] = files.get(chunk.file_name, b"") + chunk.data
    return next(value for name, value in load(files["adapter_model.safetensors"]).items() if "classifier" in name)


async def test_a_loss_that_is_absurd_fails_the_job_and_keeps_the_version_before(folder: Path) -> None:
    home = ServerHome.open(folder / "server")
    change_job(home, {"rounds": {"count": 9, "evaluate_every": 1}, "blocks.head": {"learning_rate": 1e9}})
    async with serving(home) as server:
        device = await server.device("device-1")
        await device.finish(await device.assignment())
        job = await server.until(lambda job: job.state == JOB_STATE_FAILED)
        weights = await exported(server)

    assert job.message.startswith("training has diverged: the loss on the held-out rows is ")
    assert job.message.endswith(
        " at version 1; version 0 is kept for 'export'; submit the job again with [blocks.head] "
        "learning_rate = 1e+08 instead of 1e+09, [blocks.peft] learning_rate = 0.001 instead of 0.01"
    )
    assert np.abs(weights).max() < 10
