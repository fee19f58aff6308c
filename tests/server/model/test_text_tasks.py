"""Tasks of texts from checkpoint to export: what devices compute is what transformers and PEFT compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_tasks import (
    MODELS,
    TAGS,
    Exported,
    export,
    label_rows,
    pair_rows,
    save_bytes,
    tagged_rows,
    value_rows,
    write_rows,
)
from helpers.without_fwdllm import run_without_fwdllm
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from fwdllm_client.engine import DirectionTask
from fwdllm_client.engine.audit import audit
from fwdllm_common.directions import Directions
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.standalone import convert

pytestmark = pytest.mark.timeout(900)  # models are traced, in two ways

Row = dict[str, Any]
Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A task on a model, its rows, and a batch of these as a user of transformers would make it."""

    task: str
    model: str
    keys: Mapping[str, Any]
    rows: Callable[[int, int], list[Row]]
    batch: Callable[[Any, Sequence[Row], Sequence[str]], Batch]
    method: str = "lora"


def of_pairs(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> Batch:
    texts = ([row["premise"] for row in rows], [row["hypothesis"] for row in rows])
    encoded = tokenizer(*texts, truncation=True, padding=True, return_tensors="pt")
    return {**encoded, "labels": torch.tensor([labels.index(row["label"]) for row in rows])}


def of_values(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> Batch:
    assert not labels
    encoded = tokenizer([row["text"] for row in rows], truncation=True, padding=True, return_tensors="pt")
    return {**encoded, "labels": torch.tensor([row["label"] for row in rows])}


def of_labels(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> Batch:
    encoded = tokenizer([row["text"] for row in rows], truncation=True, padding=True, return_tensors="pt")
    return {**encoded, "labels": torch.tensor([[float(label in row["label"]) for label in labels] for row in rows])}


def of_tags(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> Batch:
    """As Hugging Face's examples align tags: the first token of a word has its tag, others -100."""
    words = [row["tokens"] for row in rows]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, padding=True, return_tensors="pt")
    aligned = []
    for at, row in enumerate(rows):
        of_words = encoded.word_ids(at)
        is_first = [
            word is not None and word != before for before, word in zip([None, *of_words], of_words, strict=False)
        ]
        tags = [
            labels.index(row["ner_tags"][word]) if first else -100
            for word, first in zip(of_words, is_first, strict=True)
        ]
        aligned.append(tags)
    return {**encoded, "labels": torch.tensor(aligned)}


CASES = {
    "pairs-bert": Case("pair-classification", "bert", {"class_weights": "balanced"}, pair_rows, of_pairs),
    "pairs-side": Case("pair-classification", "bert", {"pooling": "layer-means"}, pair_rows, of_pairs, "side"),
    "values-bert-mean": Case("regression", "bert", {"pooling": "mean"}, value_rows, of_values),
    "labels-roberta": Case("multi-label", "roberta", {}, label_rows, of_labels),
    "tags-bytes": Case("token-classification", "bytes", {"labels": list(TAGS)}, tagged_rows, of_tags),
    "tags-llama": Case("token-classification", "llama", {"labels": list(TAGS)}, tagged_rows, of_tags),
}


@dataclass(frozen=True)
class Made:
    case: Case
    exported: Exported
    rows: list[Row]
    adapter: Path

    def peft_model(self) -> Any:
        return PeftModel.from_pretrained(load_base_of(self.adapter), self.adapter).eval()

    def loss(self, model: Any, rows: Sequence[Row]) -> torch.Tensor:
        """The model's own loss, or with class weights torch's."""
        batch, weights = self.batch(rows), self.exported.manifest.class_weights
        found = model(**batch)
        loss: torch.Tensor = (
            cross_entropy(found.logits, batch["labels"], torch.tensor(weights)) if weights else found.loss
        )
        return loss

    def batch(self, rows: Sequence[Row]) -> Batch:
        return self.case.batch(AutoTokenizer.from_pretrained(self.adapter), rows, self.exported.manifest.labels)


@pytest.fixture(scope="module", params=list(CASES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place, case = tmp_path_factory.mktemp(request.param), CASES[request.param]
    rows = case.rows(24, 1)
    file = write_rows(place / "rows.jsonl", rows)
    exported = export(
        {**MODELS, "bytes": save_bytes}[case.model](place / "source"), case.task, file, place, case.method, **case.keys
    )
    write_adapter(exported.folder.adapter, exported.manifest.layout, exported.theta(), place / "adapter", "a card")
    return Made(case, exported, rows, place / "adapter")


def test_the_loss_is_that_of_transformers(made: Made, tmp_path: Path) -> None:
    """All rows padded together and the model's own loss, from the adapter as PEFT loads it."""
    with torch.no_grad():
        audit(made.exported.folder.bundle, made.exported.manifest)
        expected = float(made.loss(made.peft_model(), made.rows))
    with made.exported.engine(tmp_path) as engine:
        found = engine.evaluate(made.exported.theta(), np.arange(len(made.rows)))
    assert expected > 0.01
    assert found.loss == pytest.approx(expected, rel=5e-3)  # activations are kept in float16


def test_scalars_are_directional_derivatives(made: Made, tmp_path: Path) -> None:
    model, manifest, directions = made.peft_model(), made.exported.manifest, Directions(5)
    trained = {name: value for name, value in model.named_parameters() if "lora_" in name or "modules_to_" in name}
    for value in trained.values():
        value.requires_grad_(True)
    made.loss(model, made.rows[:8]).backward()
    by_name = {
        name.replace(".default", "").replace(".modules_to_save", ""): value.grad.numpy()
        for name, value in trained.items()
        if value.grad is not None
    }
    gradient = manifest.layout.pack({spec.name: by_name[spec.name] for spec in manifest.layout.tensors})
    with made.exported.engine(tmp_path) as engine:
        for name, block in manifest.layout.blocks.items():
            task = DirectionTask(name, np.arange(1, 9, dtype=np.uint64), 1e-3, 8, central=True)
            measured = np.concatenate(
                [v for _, v in engine.derivatives(made.exported.theta(), directions, task, np.arange(8))]
            )
            vectors = [directions.vector(seed, block.start, block.start + block.size) for seed in range(1, 9)]
            expected = [float(vector @ gradient[block.slice]) for vector in vectors]
            np.testing.assert_allclose(measured, expected, atol=0.03 * np.abs(expected).max())


PREDICT = """
import json, sys
import numpy as np

given = json.load(open("given.json"))

import onnxruntime
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file("onnx/tokenizer.json")
session = onnxruntime.InferenceSession("onnx/model.onnx")
encoded = tokenizer.encode_batch(given["inputs"], is_pretokenized=given["are_words"])
feeds = {"input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
         "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64)}
(logits,) = session.run(["logits"], feeds)
assert "torch" not in sys.modules and "transformers" not in sys.modules

from transformers import pipeline
options = {} if given["are_words"] else {"top_k": None, "truncation": True}
use = pipeline(given["pipeline"], model="transformers", trust_remote_code=True, **options)
said = [use(each) for each in given["texts"]]
assert "peft" not in sys.modules
json.dump({"logits": logits.tolist(), "said": said}, open("found.json", "w"), default=float)
"""


def test_exports_say_the_same_without_fwdllm(made: Made, tmp_path: Path) -> None:
    """The merged model in a pipeline of transformers, and the graph in ONNX Runtime."""
    for kind in ("transformers", "onnx"):
        convert(made.adapter, kind, tmp_path / kind)
    with torch.no_grad():
        batch = {name: value for name, value in made.batch(made.rows).items() if name != "labels"}
        expected = made.peft_model()(**batch).logits
    given = inputs_of(made)
    (tmp_path / "given.json").write_text(json.dumps(given))
    run_without_fwdllm(PREDICT, tmp_path)
    found = json.loads((tmp_path / "found.json").read_bytes())
    is_text = batch["attention_mask"].bool()
    at = is_text if made.case.task == "token-classification" else slice(None)
    np.testing.assert_allclose(np.array(found["logits"])[at], expected[at], atol=1e-3)
    if made.case.task == "token-classification":
        labels = made.exported.manifest.labels
        is_word = is_text & (batch["input_ids"] >= 4)  # the first four are special tokens
        for said, logits, mask in zip(found["said"], expected, is_word, strict=True):
            tags = [labels[int(best)] for best in logits[mask].argmax(dim=1)]
            assert [each["entity"] for each in said] == [tag for tag in tags if tag != "O"]
        return
    labels = made.exported.manifest.labels or ["LABEL_0"]
    for said, chances in zip(found["said"], OUTPUTS[made.case.task](expected), strict=True):
        (row,) = said if isinstance(said[0], list) else [said]
        assert {each["label"]: each["score"] for each in row} == pytest.approx(
            dict(zip(labels, chances.tolist(), strict=True)), abs=1e-3
        )


OUTPUTS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pair-classification": lambda logits: logits.softmax(dim=1),
    "regression": lambda logits: logits,
    "multi-label": lambda logits: logits.sigmoid(),
    "token-classification": lambda logits: logits.softmax(dim=2),
}
"""What transformers' pipeline says of logits."""


def inputs_of(made: Made) -> dict[str, Any]:
    """The rows as the tokenizer and as the pipeline read them."""
    if made.case.task == "token-classification":
        words = [row["tokens"] for row in made.rows]
        texts = [" ".join(each) for each in words]
        return {"are_words": True, "pipeline": "token-classification", "inputs": words, "texts": texts}
    given = {"are_words": False, "pipeline": "text-classification"}
    if made.case.task == "pair-classification":
        pairs = [(row["premise"], row["hypothesis"]) for row in made.rows]
        return {**given, "inputs": pairs, "texts": [{"text": first, "text_pair": second} for first, second in pairs]}
    texts = [row["text"] for row in made.rows]
    return {**given, "inputs": texts, "texts": texts}
