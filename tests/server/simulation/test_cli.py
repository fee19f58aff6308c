"""``fwdllm-server simulate``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from fwdllm_client.tasks.classification import DataSource
from fwdllm_server.cli import run
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.simulation import Simulation

DEVICES = ["--devices", "6", "--dropout-rate", "0.2", "--speed-spread", "1", "--seed", "4"]
POPULATION = Population(devices=6, dropout_rate=0.2, speed_spread=1.0, seed=4)
LINE = re.compile(
    r"round (\d) of 4: accuracy [\d.]+%, loss [\d.]+, [\d,]+ directions, [\d,]+ example-passes, \S+ simulated, "
    r"[\d.]+ \w+ up, [\d.]+ \w+ down a device"
)


@pytest.fixture
def command(place, ready, tmp_path, capfd, monkeypatch):
    """Runs the command in this process; returns its exit code and what it printed."""

    monkeypatch.setenv("TQDM_DISABLE", "1")  # what the command leaves behind

    def call(*options: str, job: str = "job.toml", data: str = "train.csv", out: str = "run"):
        where = ["--data", str(place / data), "--out", str(tmp_path / out), "--threads", "1"]
        capfd.readouterr()
        code = run(["simulate", str(place / job), *where, *options])
        return code, *capfd.readouterr()

    yield call
    structlog.reset_defaults()


def test_a_line_for_each_evaluated_version_and_what_came_of_it(command, tmp_path):
    code, out, err = command(*DEVICES)
    first, *lines, accuracy, rounds, cost, adapter = out.splitlines()

    assert (code, err) == (0, "")
    assert first.startswith("6 devices, 240 rows, ")
    assert [LINE.fullmatch(line).group(1) for line in lines] == ["0", "2", "4"]
    assert re.fullmatch(r"accuracy [\d.]+% before, [\d.]+% after, [\d.]+% at best \(round \d\)", accuracy)
    assert rounds.startswith("4 rounds committed, 0 abandoned; ")
    assert "a device, in" in cost
    assert adapter == str(tmp_path / "run" / "adapter")
    files = {file.name for file in Path(adapter).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"} <= files


def test_json_a_line_for_each_point_and_one_at_the_end(command, tmp_path):
    code, out, err = command(*DEVICES, "--json")
    *points, outcome = map(json.loads, out.splitlines())

    assert (code, err) == (0, "")
    assert points == json.loads((tmp_path / "run" / "curve.json").read_text())
    assert (outcome["rounds_committed"], outcome["points"]) == (4, 3)
    assert outcome["adapter"] == str(tmp_path / "run" / "adapter")
    assert len(bytes.fromhex(outcome["theta_digest"])) == 32


def test_again_in_the_same_folder(command):
    _, first, _ = command(*DEVICES)
    code, again, _ = command(*DEVICES)

    assert code == 0
    assert again.splitlines()[1] == "continues at round 4 of 4"
    assert again.splitlines()[-4:] == first.splitlines()[-4:]


def test_a_device_for_each_user(command):
    code, out, _ = command("--partition", "user", "--user-column", "user", data="by_user.csv")

    assert code == 0
    assert out.startswith("7 devices, 240 rows, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "300"], "240 rows are too few for 300 devices; simulate fewer"),
        (["--partition", "user"], "a partition by user needs the data file's user column"),
        (["--partition", "sorted"], "'sorted' is not one of 'iid', 'dirichlet', 'user'"),
        (["--alpha", "-1"], "simulated devices: alpha is -1.0: should be greater than 0"),
        (["--label-column", "topic"], "no column 'topic', only 'text', 'label'"),
        (["--user-column", "who"], "no column 'who', only 'text', 'label'"),
    ],
)
def test_errors_are_one_line(command, tmp_path, options, message):
    code, out, err = command(*options)

    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("fwdllm-server: error[")
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_job_file_that_is_not_there(command):
    code, _, err = command(job="gone.toml")

    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be read" in err


@pytest.fixture
def process(place, ready, tmp_path):
    """Starts the command in another process, in a folder where the model is ready; the first line is read."""
    started = []

    def start(out: str) -> subprocess.Popen[str]:
        folder = tmp_path / out
        toml = (place / "job.toml").read_text()
        Simulation(toml, place, DataSource(place / "train.csv"), POPULATION, folder, threads=1).close()
        program = Path(sys.executable).parent / "fwdllm-server"
        where = ["--data", str(place / "train.csv"), "--out", str(folder), "--threads", "1"]
        started.append(
            subprocess.Popen(
                [program, "simulate", str(place / "job.toml"), *where, *DEVICES],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_ctrl_c_says_how_to_go_on(process, command, tmp_path):
    simulating = process("run")
    while not simulating.stdout.readline().startswith("round 0"):
        pass
    simulating.send_signal(signal.SIGINT)
    _, err = simulating.communicate(timeout=60)
    code, whole, _ = command(*DEVICES, "--json", out="whole")
    resumed_code, resumed, _ = command(*DEVICES, "--json")

    assert (simulating.returncode, code, resumed_code) == (130, 0, 0)
    assert err.startswith("interrupted; continue from there with the same command: fwdllm-server simulate ")
    assert err.endswith(" ".join(DEVICES) + "\n")
    assert digest(resumed) == digest(whole)


def test_a_killed_simulation_goes_on_to_the_same_end(process, command, tmp_path):
    simulating = process("run")
    simulating.stdout.readline()
    simulating.kill()
    simulating.communicate()
    _, whole, _ = command(*DEVICES, "--json", out="whole")
    code, resumed, _ = command(*DEVICES, "--json")

    assert code == 0
    assert digest(resumed) == digest(whole)
    assert (tmp_path / "run" / "curve.json").read_bytes() == (tmp_path / "whole" / "curve.json").read_bytes()


def digest(out: str) -> str:
    return json.loads(out.splitlines()[-1])["theta_digest"]
