"""Exported models in the hands of people who have neither fwdllm nor PEFT; what they predict is what was evaluated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.without_fwdllm import run_without_fwdllm
from server.model.conftest import LABELS, MAX_TOKENS, TEXTS, Prepared

from fwdllm_client.data import Dataset
from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import Reading, save_adapter_template, tokenizer_for
from fwdllm_server.model.load import load_tokenizer_file
from fwdllm_server.model.standalone import convert

pytestmark = pytest.mark.timeout(900)  # models are traced, in two ways

CASES = ("bert-layer-means", "llama")  # one that brings its own code, one that transformers has
ROWS = [*TEXTS[:12], " ".join(["w9 w8"] * 40), "w5"]  # among them one that is cut, and one token alone

PREDICT = """
import json
import sys

cases, texts = json.load(open("given.json"))
found = {}

def transformers(folder):
    from transformers import AutoModelForSequenceClassification, pipeline
    trust = {"trust_remote_code": True}
    AutoModelForSequenceClassification.from_pretrained(folder, **trust).save_pretrained(f"{folder}-again")
    from transformers import AutoTokenizer
    AutoTokenizer.from_pretrained(folder).save_pretrained(f"{folder}-again")
    return [scores(pipeline("text-classification", model=each, truncation=True, top_k=None, **trust))
            for each in (folder, f"{folder}-again")]

def scores(classify):
    return [{each["label"]: each["score"] for each in row} for row in classify(texts)]

def onnx(folder):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    labels = json.load(open(f"{folder}/config.json"))["id2label"]
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    def rows(batch):
        encoded = tokenizer.encode_batch(batch)
        feeds = {"input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
                 "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64)}
        (logits,) = session.run(["logits"], feeds)
        powers = np.exp(logits)
        return [{labels[str(at)]: float(each) for at, each in enumerate(row)}
                for row in powers / powers.sum(axis=1, keepdims=True)]
    return [rows(texts), [row for text in texts for row in rows([text])]]

for case in cases:
    found[case] = {"onnx": onnx(f"{case}-onnx")}
assert "torch" not in sys.modules and "transformers" not in sys.modules
for case in cases:
    found[case]["transformers"] = transformers(f"{case}-transformers")
assert "peft" not in sys.modules
json.dump(found, open("found.json", "w"))
"""


def exported(prepared: Prepared, case: str, folder: Path) -> list[dict[str, float]]:
    """Export a model at a moved θ in both formats; returns what the engine of evaluations says."""
    work = folder / "work"
    tokenizer = tokenizer_for(prepared.source, load_tokenizer_file(prepared.source), MAX_TOKENS)
    save_adapter_template(prepared.model, tokenizer, Reading(MAX_TOKENS), work / "template")
    theta = prepared.theta(1)[0]
    write_adapter(work / "template", prepared.layout, theta, work / "adapter", "a card")
    for kind in ("transformers", "onnx"):
        convert(work / "adapter", kind, folder / f"{case}-{kind}")
        assert (folder / f"{case}-{kind}" / "README.md").read_text() == "a card"
    (work / "rows.csv").write_text("text,label\n" + "".join(f"{text},{LABELS[0]}\n" for text in ROWS))
    dataset = Dataset.load(DataSource(work / "rows.csv"), prepared.folder / "tokenizer.json", prepared.manifest)
    with Engine(prepared.folder, prepared.manifest, dataset, work / "cache", threads=1) as engine:
        said = engine.predict(theta, np.arange(len(ROWS)))
    shutil.rmtree(work)  # nothing may be read from there
    for row in said:
        assert row.text == LABELS[int(np.argmax(row.probabilities))]
    return [dict(zip(LABELS, row.probabilities, strict=True)) for row in said]


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, prepared_models: Callable[[str], Prepared]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By case what the engine says of each row, and what each format does, in a process without fwdllm."""
    folder = tmp_path_factory.mktemp("standalone")
    expected = {case: exported(prepared_models(case), case, folder) for case in CASES}
    (folder / "given.json").write_text(json.dumps([list(expected), ROWS]))
    run_without_fwdllm(PREDICT, folder)
    return expected, json.loads((folder / "found.json").read_bytes())


@pytest.mark.parametrize("kind", ["transformers", "onnx"])
@pytest.mark.parametrize("case", CASES)
def test_predictions_are_the_evaluations_row_by_row(case: str, kind: str, found: tuple[Any, Any]) -> None:
    expected, computed = (part[case] for part in found)
    assert len({max(row, key=row.get) for row in expected}) > 1, "a model that says the same of all rows proves little"
    for way in computed[kind]:
        for text, row, other in zip(ROWS, expected, way, strict=True):
            # Engines keep frozen activations in float16.
            assert other == pytest.approx(row, abs=5e-3), text
            assert max(other, key=other.get) == max(row, key=row.get), text
