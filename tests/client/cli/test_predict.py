"""The model that a device holds, used when no coordinator answers any more."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from client.cli.conftest import MANIFEST, theta_of

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.engine.tiny_bundle import BUNDLE_FOLDER
from fwdllm_client.tasks.classification import DataSource


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    texts = [" ".join(f"w{2 + (7 * row + 3 * word) % 48}" for word in range(1 + row % 9)) for row in range(12)]
    path.write_text("".join(f"{text}\n" for text in ("text", *texts)))
    return path


def correct_of(theta, labels, rows, folder):
    """How many of ``labels`` the engine with which devices evaluate finds right."""
    texts = rows.read_text().splitlines()[1:]
    lines = (f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
    (folder / "labelled.csv").write_text("text,label\n" + "".join(lines))
    dataset = Dataset.load(DataSource(folder / "labelled.csv"), BUNDLE_FOLDER / MANIFEST.tokenizer.name, MANIFEST)
    with Engine(BUNDLE_FOLDER, MANIFEST, dataset, folder / "scratch", 1, cache_limit_bytes=0) as engine:
        return engine.evaluate(theta, np.arange(len(dataset))).correct


def test_predictions_are_those_of_the_newest_weights_or_of_the_job(work_on, predict, rows, coordinator, tmp_path):
    work_on("older", 1, 1000)
    work_on("newer", 2, 2000)
    coordinator.stop()
    found = {}
    for name, seed, chosen in (("newer", 2, ()), ("older", 1, ("--job", "older"))):
        code, out, _ = predict("--data", rows, "--json", *chosen)
        assert code == 0
        said = json.loads(out)
        assert (said["job"], said["version"]) == (name, 0)
        labels = found[name] = [each["label"] for each in said["predictions"]]
        for each in said["predictions"]:
            assert sum(each["probabilities"].values()) == pytest.approx(1)
            assert max(each["probabilities"], key=each["probabilities"].get) == each["label"]
        assert correct_of(theta_of(seed), labels, rows, tmp_path) == len(labels)
    assert found["newer"] != found["older"]
    coordinator.start()


def test_the_ways_of_printing(work_on, predict, rows):
    work_on("news", 2, 1000)
    text = rows.read_text().splitlines()[1]
    code, out, err = predict("--text", text)
    assert (code, err) == (0, "by version 0 of job news\n")
    _, table, _ = predict("--data", rows, "--csv")
    head, *lines = csv.reader(table.splitlines())
    assert head == ["label", *MANIFEST.labels]
    assert len(lines) == 12
    label, *probabilities = lines[0]
    assert out == f"{label}  {max(map(float, probabilities)):.1%}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--text", "w3", "--job", "other"), "this device holds no model of a job 'other'; there are news"),
        (("--text", "w3", "--json", "--csv"), "say --json or --csv, not both"),
        (("--text", "w3", "--data", "rows.csv"), "not allowed with argument"),
        ((), "one of the arguments --text --data is required"),
    ],
)
def test_what_cannot_be_done_is_named(work_on, predict, arguments, words):
    work_on("news", 2, 1000)
    code, _, err = predict(*arguments)
    assert code == 2
    assert words in err


def test_a_device_that_has_not_worked_has_no_model(predict):
    code, _, err = predict("--text", "w3")
    assert code == 2
    assert "holds no trained model yet; run the agent until it has worked on a job" in err


def test_a_model_that_has_changed_on_the_disk_is_not_used(work_on, predict, home):
    work_on("news", 2, 1000)
    (graph,) = home.cache.glob("bundles/*/head.onnx")
    data = graph.read_bytes()
    graph.unlink()  # the link, not the file that it shares
    graph.write_bytes(data[:-1] + b"\0")
    code, _, err = predict("--text", "w3")
    assert code == 7
    assert "head.onnx has changed since it was downloaded" in err
