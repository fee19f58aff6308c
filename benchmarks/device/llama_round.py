"""Rounds of a real job on a bundle of :mod:`benchmarks.device.llama`: coordinator and agent as processes, over mTLS.

The job is put into the coordinator's store as preparing it would have left it: the model that its preparation would
load, 26 GB of float32, never exists.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device.memory import Watch
from benchmarks.device.workplace import TOKENS, Workplace
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, GetJobRequest, Job
from fwdllm_common.manifest import MANIFEST_FILE
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.cli.demo.cluster import Cluster
from fwdllm_server.config.home import ServerHome
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.server_config import load_config
from fwdllm_server.preparation.adoption import adopt, save_prepared
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.store import jobs
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

ROUNDS = 2
"""The first has all that a first start takes; what lies below the trained layers is cached in the second."""
_JOB_ID = "0123456789ab"
_HOUR_S = 3600


def run_rounds(place: Workplace, folder: Path) -> dict[str, Any]:
    """Measure an agent in the rounds; it has ``place.batch`` rows, all of which are in each of its batches.

    Seconds of the first round are from the agent's start, download included, to its commit; the rest is of the second
    round alone, but for the memory, which is the agent's at most.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest = place.manifest
    random = np.random.default_rng(1)
    # One row more is kept back for evaluation; the coordinator's own row is short.
    _write_rows(folder / "device.csv", random, manifest.labels, place, place.batch + 1, TOKENS)
    _write_rows(folder / "held_out.csv", random, manifest.labels, place, 1, 4)
    with Cluster(folder) as cluster:
        cluster.run("fwdllm-server", "init", str(cluster.server_folder), "--host", "localhost")
        _add_job(cluster.server_folder, folder, place)
        cluster.start_server()
        began = time.perf_counter()
        with Watch(cluster.start_agent("device", folder / "device.csv", place.threads)) as watch:
            commits = _follow(cluster)
            peak_rss_bytes = watch.peak_rss_bytes
        found = watch.peak_anonymous_bytes
    (first_at, first), (last_at, last) = commits[0], commits[-1]
    before, after = first.devices[0], last.devices[0]
    return {
        "first_seconds": first_at - began,
        "seconds": last_at - first_at,
        "seconds_per_direction": (after.seconds - before.seconds) / (after.scalars - before.scalars),
        "scalars": after.scalars,
        "bytes_sent": after.bytes_sent,
        "bytes_received": after.bytes_received,
        "artifact_bytes": after.artifact_bytes,
        "peak_rss_bytes": peak_rss_bytes,
        "peak_anonymous_bytes": found,
    }


def _follow(cluster: Cluster) -> list[tuple[float, Job]]:
    """Return the job after each of its commits, with the time in seconds."""
    commits: list[tuple[float, Job]] = []
    with operator_service(cluster.server_folder) as service:
        for job in service.WatchJob(GetJobRequest(job=_JOB_ID)):
            cluster.check()
            if job.rounds_committed > len(commits):
                commits.append((time.perf_counter(), job))
    if job.state != JOB_STATE_DONE or len(commits) != ROUNDS:
        raise SystemExit(f"the job did not finish: {job.message}")
    return [*commits[:-1], (commits[-1][0], job)]


def _add_job(server_folder: Path, base_folder: Path, place: Workplace) -> None:
    toml = _job_toml(place)
    spec = JobSpec.model_validate(tomllib.loads(toml))
    home = ServerHome.open(server_folder)
    job = JobFolder(home.jobs / _JOB_ID)
    job.bundle.mkdir(parents=True)
    for name in [MANIFEST_FILE, *(file.name for file in place.manifest.files)]:
        os.link(place.bundle / name, job.bundle / name)
    np.save(job.path / "initial_theta.npy", place.theta)
    (job.path / "head_init").write_text("zeros")
    database, artifacts = Database(home.database_url(load_config(home.config_file))), ArtifactStore(home.artifacts)
    prepared = adopt(spec, job, artifacts)
    with database.transaction() as connection:
        jobs.add(connection, _JOB_ID, spec, toml, base_folder, time.time())
        save_prepared(connection, artifacts, _JOB_ID, prepared)
    database.close()


def _job_toml(place: Workplace) -> str:
    return f"""
[job]
name = "{place.shape}"
[model]
source = "nowhere"
labels = {list(place.manifest.labels)}
max_tokens = {TOKENS}
precision = "int4"
[held_out]
file = "held_out.csv"
[rounds]
count = {ROUNDS}
gather_s = 0
accept_s = {_HOUR_S}
deadline_s = {24 * _HOUR_S}
assignment_s = {24 * _HOUR_S}
evaluate_every = 0
[blocks.peft]
directions = {place.directions}
batch_size = {place.batch}
learning_rate = 1e-3
"""


def _write_rows(
    path: Path, random: np.random.Generator, labels: tuple[str, ...], place: Workplace, rows: int, tokens: int
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for row in range(rows):
            words = (f"w{token}" for token in random.integers(2, place.vocabulary, tokens))
            writer.writerow((" ".join(words), labels[row % len(labels)]))
