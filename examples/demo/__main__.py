"""``make demo``: what ``fwdllm-server demo`` does, and a report that holds it against references.

A coordinator and four agents, each a process of its own, talk over mutual TLS on loopback. They fine-tune
all-MiniLM-L6-v2 for the five topics of BBC News from directional derivatives alone: no process computes a gradient.
Interrupted with Ctrl-C, or worse, it goes on where it was when it is run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from examples.demo.report import Report, lines
from fwdllm_common.errors import FwdllmError
from fwdllm_common.manifest import Manifest
from fwdllm_server.cli.demo.running import DEVICES, JOB_FILE, Trained, train

_HERE = Path(__file__).parent


def main() -> None:
    """Run the demo in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo-output"))
    parser.add_argument("--job", type=Path, default=JOB_FILE, help="another job file")
    arguments = parser.parse_args()
    console = Console()
    try:
        trained = train(arguments.folder.absolute(), arguments.job, console)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is lost. Run 'make demo' again to go on, 'make clean-demo' to begin anew.")
        raise SystemExit(130) from None
    except FwdllmError as error:
        raise SystemExit(f"{error.line}; 'make setup' installs what the demo needs") from None
    report = _report(trained)
    (trained.folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    trained.close()
    _print(report, console)


def _report(trained: Trained) -> Report:
    from examples.demo import reference  # PyTorch, which nothing before needed

    job, shards = trained.job, trained.shards
    max_tokens = Manifest.from_bytes((trained.bundle / "manifest.json").read_bytes()).max_tokens
    largest = max(range(DEVICES), key=lambda device: len(shards[device]))
    alone = subprocess.run(
        [sys.executable, _HERE / "inference.py", trained.bundle, trained.data_of(largest)],
        capture_output=True,
        text=True,
        check=True,
    )
    training = [article for shard in shards for article in shard]
    return Report(
        accuracy_before=job.initial_evaluation.accuracy,
        accuracy_after=job.latest_evaluation.accuracy,
        accuracy_by_peft=reference.adapter_accuracy(trained.adapter, trained.model, max_tokens, trained.held_out),
        probe_accuracy=reference.probe_accuracy(trained.model, max_tokens, training, trained.held_out),
        head_init=job.head_init,
        rounds=job.rounds_committed,
        directions=job.directions,
        example_passes=job.example_passes,
        bytes_up_per_device=max(device.bytes_sent for device in job.devices),
        bytes_down_per_device=max(device.bytes_received for device in job.devices),
        model_bytes_per_device=max(device.artifact_bytes for device in job.devices),
        agent_peak_rss_bytes=max(device.peak_rss_bytes for device in job.devices),
        inference_peak_rss_bytes=int(alone.stdout),
        seconds=trained.seconds,
        adapter_dir=str(trained.adapter),
    )


def _print(report: Report, console: Console) -> None:
    console.print()
    for line in lines(report):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
