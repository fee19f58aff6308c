"""``make demo``'s own script: a real model and real text, interrupted with Ctrl-C and taken up again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "server" / "fwdllm_server" / "cli" / "demo"
KEYS = {
    "accuracy_before",
    "accuracy_after",
    "probe_accuracy",
    "head_init",
    "rounds",
    "directions",
    "example_passes",
    "bytes_up_per_device",
    "bytes_down_per_device",
    "agent_peak_rss_bytes",
    "inference_peak_rss_bytes",
    "seconds",
    "adapter_dir",
}


@pytest.fixture
def short_job(tmp_path: Path) -> Path:
    """The demo's job with three rounds, the last of which also trains the upper layers."""
    text = (DEMO / "job.toml").read_text()
    for key, value in {"count": 3, "first_round": 3, "max_directions": 2048}.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f"{key} = {value}")
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


@pytest.mark.timeout(900)  # two runs of the demo, minutes on a busy machine
def test_interrupted_and_taken_up_again(short_job: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo-output"
    command = [sys.executable, "-m", "examples.demo", folder, "--job", short_job]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as interrupted:
        assert interrupted.stdout is not None
        output = []
        for line in interrupted.stdout:
            output.append(line)
            if re.search("[12] of 3 done", line):  # rounds may follow each other faster than lines are printed
                interrupted.send_signal(signal.SIGINT)
    text = "".join(output)
    assert interrupted.returncode == 130, text
    assert "make demo" in text
    assert not (folder / "report.json").exists()

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert report.keys() >= KEYS
    assert report["rounds"] == 3
    assert report["directions"] == 3 * 2048 + 64
    assert report["head_init"] == "zeros"
    assert report["accuracy_before"] < 0.4 < 0.55 < report["accuracy_after"]
    assert report["probe_accuracy"] > 0.9
    assert report["accuracy_by_peft"] == report["accuracy_after"]
    assert report["bytes_up_per_device"] < 100_000
    assert (Path(report["adapter_dir"]) / "adapter_model.safetensors").exists()


CLUSTER_OF_A_SLEEPER = """
import sys, time
from pathlib import Path
from fwdllm_server.cli.demo.cluster import Cluster
with Cluster(Path(sys.argv[1])) as started:
    print(started._start("sleeper", "python", "-c", "import time; time.sleep(600)"), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("which", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_leaves_no_process(which: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLUSTER_OF_A_SLEEPER, tmp_path]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        sleeper = int(process.stdout.readline())
        process.send_signal(which)
        process.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(sleeper, 0)
