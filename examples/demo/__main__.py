"""``make demo``: a real model, real text and real processes, from nothing to a PEFT adapter.

A coordinator and four agents, each a process of its own, talk over mutual TLS on loopback. They fine-tune
all-MiniLM-L6-v2 for the five topics of BBC News from directional derivatives alone: no process computes a gradient.
Interrupted with Ctrl-C, or worse, it goes on where it was when it is run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from examples.demo import bbc_news
from examples.demo.cluster import Cluster
from examples.demo.report import Report, lines
from examples.materials import minilm_folder
from fwdllm.v1.operator_pb2 import JOB_STATE_DONE, GetJobRequest, Job, ListJobsRequest, SubmitJobRequest
from fwdllm_common.manifest import Manifest
from fwdllm_server.cli.calls import operator_service
from fwdllm_server.cli.display import Display
from fwdllm_server.cli.progress import show_job

DEVICES = 4
ALPHA = 0.5
SPLIT_SEED = 1
_HERE = Path(__file__).parent


def main() -> None:
    """Run the demo in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo-output"))
    parser.add_argument("--job", type=Path, default=_HERE / "job.toml", help="another job file")
    arguments = parser.parse_args()
    console = Console()
    folder = arguments.folder.absolute()
    try:
        run(folder, arguments.job, console)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is lost. Run 'make demo' again to go on, 'make clean-demo' to begin anew.")
        raise SystemExit(130) from None


def run(folder: Path, job_file: Path, console: Console) -> None:
    """From an empty folder, or an interrupted run in it, to the report."""
    began = _first_start(folder)
    model = minilm_folder()
    held_out, shards = bbc_news.split(bbc_news.load(), DEVICES, ALPHA, SPLIT_SEED)
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
    seconds = time.time() - began
    report = _report(job, folder, model, held_out, shards, seconds)
    (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    _print(report, console)


def _first_start(folder: Path) -> float:
    """When the run in ``folder`` began, in seconds since 1970; a finished one is cleared away."""
    if (folder / "report.json").exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "began"
    if not file.exists():
        file.write_text(str(time.time()))
    return float(file.read_text())


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
        raise SystemExit(f"the job did not finish: {job.message}")
    return job


def _report(
    job: Job,
    folder: Path,
    model: Path,
    held_out: list[bbc_news.Article],
    shards: list[list[bbc_news.Article]],
    seconds: float,
) -> Report:
    from examples.demo import reference  # PyTorch, which nothing before needed

    bundle = folder / "server" / "jobs" / job.job_id / "bundle"
    max_tokens = Manifest.from_bytes((bundle / "manifest.json").read_bytes()).max_tokens
    largest = max(range(DEVICES), key=lambda device: len(shards[device]))
    alone = subprocess.run(
        [sys.executable, _HERE / "inference.py", bundle, folder / f"device-{largest + 1}.csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    training = [article for shard in shards for article in shard]
    adapter = folder / "adapter"
    return Report(
        accuracy_before=job.initial_evaluation.accuracy,
        accuracy_after=job.latest_evaluation.accuracy,
        accuracy_by_peft=reference.adapter_accuracy(adapter, model, max_tokens, held_out),
        probe_accuracy=reference.probe_accuracy(model, max_tokens, training, held_out),
        head_init=job.head_init,
        rounds=job.rounds_committed,
        directions=job.directions,
        example_passes=job.example_passes,
        bytes_up_per_device=max(device.bytes_sent for device in job.devices),
        bytes_down_per_device=max(device.bytes_received for device in job.devices),
        model_bytes_per_device=max(device.artifact_bytes for device in job.devices),
        agent_peak_rss_bytes=max(device.peak_rss_bytes for device in job.devices),
        inference_peak_rss_bytes=int(alone.stdout),
        seconds=seconds,
        adapter_dir=str(adapter),
    )


def _print(report: Report, console: Console) -> None:
    console.print()
    for line in lines(report):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
