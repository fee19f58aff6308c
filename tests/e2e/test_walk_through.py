"""The README's commands, one after the other, from an empty folder to an adapter that PEFT loads."""

from __future__ import annotations

import csv
import json
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.federation import Federation
from helpers.tiny_text import LABELS
from peft import PeftModel
from transformers import AutoTokenizer

from fwdllm_common.layout import Layout
from fwdllm_common.ledger import LedgerEntry
from fwdllm_common.manifest import Manifest
from fwdllm_common.replay import ModelState
from fwdllm_server.model.adapter_template import load_base_of

REPOSITORY = Path(__file__).parents[2]
HUB = ("huggingface_hub", "hf-xet", "httpx2", "httpcore2", "anyio", "fsspec", "tqdm", "pyyaml", "filelock", "click")
FORBIDDEN = (
    "huggingface_hub",
    "pyyaml",
    "torch",
    "transformers",
    "peft",
    "onnx",
    "pydantic",
    "sqlalchemy",
    "cryptography",
)


@pytest.fixture(scope="session")
def client_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that holds what phones have of the ``client`` extra, and nothing else.

    tokenizers declares a hub client that it needs only to download; phones get tokenizers without it. They have ecdsa
    in place of cryptography.
    """
    folder = tmp_path_factory.mktemp("client-environment")
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    constraints = REPOSITORY / "constraints.txt"
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.run([*install, f"{REPOSITORY}[client]"], check=True, timeout=240)
    subprocess.run([*install, "ecdsa"], check=True, timeout=60)
    removed = (*HUB, "cryptography", "cffi", "pycparser")
    subprocess.run(
        [programs / "python", "-m", "pip", "uninstall", "--quiet", "--yes", *removed], check=True, timeout=60
    )
    return programs


@pytest.fixture(scope="module")
def finished(
    workplace: Path, client_programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Federation, dict[str, object]]]:
    """A whole run of two agents, one of them from the light environment, and ``job show --json`` after it."""
    with Federation(tmp_path_factory.mktemp("walk-through")) as federation:
        made = json.loads(
            federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost", "--json")
        )
        assert Path(made["folder"]) == federation.server_folder
        federation.start_server()
        federation.join("device-1", client_programs)
        federation.join("device-2")
        federation.start_agent("device-1", workplace / "device-1.csv", client_programs)
        federation.start_agent("device-2", workplace / "device-2.csv")
        job_id = json.loads(federation.server("job", "submit", str(workplace / "job.toml"), "--json"))["job_id"]
        federation.server("job", "wait", job_id, "--timeout", "100")
        federation.server("export", "tiny", "--out", str(federation.folder / "adapter"))
        yield federation, json.loads(federation.server("job", "show", "tiny", "--json"))


def test_light_environment_has_no_training_library(client_programs: Path) -> None:
    listed = subprocess.run(
        [client_programs / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True
    )
    installed = {line.split()[0].lower() for line in listed.stdout.splitlines()}
    assert "onnxruntime" in installed
    assert installed.isdisjoint(FORBIDDEN)


def test_the_model_has_learnt(finished: tuple[Federation, dict[str, object]]) -> None:
    _, job = finished
    assert job["state"] == "done"
    assert job["initial_evaluation"]["accuracy"] < 0.5  # three classes, a head of zeros
    assert job["latest_evaluation"]["accuracy"] > 0.8
    assert job["latest_evaluation"]["federated_accuracy"] > 0.7
    assert job["head_init"] == "zeros"


def test_both_agents_did_their_part(finished: tuple[Federation, dict[str, object]]) -> None:
    _, job = finished
    assert job["directions"] == 6 * 160 + 3 * 24 == sum(device["scalars"] for device in job["devices"])
    for device in job["devices"]:
        assert device["scalars"] > 0
        assert 0 < device["bytes_sent"] < 1_000_000  # check-ins most of it, and the more the slower the machine
        assert device["peak_rss_bytes"] > 0
    assert job["example_passes"] > 0


def test_exported_adapter_is_as_accurate_in_peft(
    finished: tuple[Federation, dict[str, object]], workplace: Path
) -> None:
    federation, job = finished
    adapter = federation.folder / "adapter"
    model = PeftModel.from_pretrained(load_base_of(adapter), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(workplace / "model")
    with (workplace / "held_out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    batch = tokenizer([row["text"] for row in rows], truncation=True, max_length=16, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    correct = sum(LABELS[index] == row["label"] for index, row in zip(logits.argmax(dim=1), rows, strict=True))
    assert correct / len(rows) == job["latest_evaluation"]["accuracy"]


def test_replay_of_the_ledger_is_the_model(finished: tuple[Federation, dict[str, object]]) -> None:
    federation, job = finished
    folder = federation.server_folder / "jobs" / str(job["job_id"])
    layout: Layout = Manifest.from_bytes((folder / "bundle" / "manifest.json").read_bytes()).layout
    state = ModelState.initial(federation.run_header(), layout, np.load(folder / "initial_theta.npy"))
    for entry in federation.ledger():
        state.advance(LedgerEntry.from_bytes(entry))
    assert state.digest.hex() == job["theta_digest"]


def test_every_command_speaks_json(finished: tuple[Federation, dict[str, object]]) -> None:
    federation, job = finished
    assert [found["job_id"] for found in json.loads(federation.server("job", "list", "--json"))] == [job["job_id"]]
    assert {found["name"] for found in json.loads(federation.server("devices", "list", "--json"))} == {
        "device-1",
        "device-2",
    }
    home = str(federation.folder / "device-2")
    assert json.loads(federation.command("fwdllm-client", "status", "--home", home, "--json"))["joined"]
    changes = federation.server("job", "watch", "tiny", "--json").splitlines()
    assert json.loads(changes[-1])["state"] == "done"


def test_a_finished_job_cannot_be_stopped(finished: tuple[Federation, dict[str, object]]) -> None:
    federation, _ = finished
    message = federation.server("job", "stop", "tiny", expect=2)
    assert "only a running job can be stopped" in message


def test_a_model_that_does_not_suit_fails_the_job_with_a_reason(
    finished: tuple[Federation, dict[str, object]], workplace: Path
) -> None:
    federation, _ = finished
    text = (workplace / "job.toml").read_text()

    def submit(name: str, change: tuple[str, str], expect: int = 0) -> str:
        spec = workplace / f"{name}.toml"
        spec.write_text(text.replace('name = "tiny"', f'name = "{name}"').replace(*change))
        return federation.server("job", "submit", str(spec), expect=expect)

    assert "nowhere" in submit("no-model", ('source = "model"', 'source = "./nowhere"'), expect=2)
    submit("no-layer", ("layers = [-1]", "layers = [7]"))
    submit("no-target", ("rank = 2", 'rank = 2\ntargets = ["querry"]'))
    for name, words in {"no-layer": "the model has 3", "no-target": "query"}.items():
        message = federation.server("job", "wait", name, "--timeout", "60", expect=2)
        assert words in message, message
