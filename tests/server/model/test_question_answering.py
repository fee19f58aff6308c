"""Question answering from checkpoint to adapter: what devices compute is what PyTorch and PEFT compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_questions import save_decoder, save_encoder, write_questions
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering, BertModel, LlamaModel

from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.tasks.question_answering import QuestionSource
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.load import load_base
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model

TASK = "question-answering"
MODELS: dict[str, Callable[[Path], str]] = {"bert": save_encoder, "llama": save_decoder}


@dataclass(frozen=True)
class Exported:
    source: str
    folder: JobFolder
    manifest: Manifest
    dataset: Dataset

    def theta(self) -> Float32Vector:
        """θ₀ moved, so that every part of the model has an effect."""
        start = np.load(self.folder.path / "initial_theta.npy")
        return (start + np.random.default_rng(3).normal(0, 0.1, start.shape)).astype(np.float32)

    def engine(self, cache: Path) -> Engine:
        return Engine(self.folder.bundle, self.manifest, self.dataset, cache, threads=1)

    def row(self, index: int) -> dict[str, torch.Tensor]:
        """One row as Hugging Face's own tokenizer would have it: alone, unpadded, with segments."""
        start, end = self.dataset.offsets[index : index + 2]
        ids = torch.from_numpy(self.dataset.token_ids[start:end].astype(np.int64))[None]
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "bert" in self.source:
            first = int(self.dataset.passages.tokens[index, 0]) if self.dataset.passages else 0
            text["token_type_ids"] = (torch.arange(ids.shape[1]) >= first).long()[None]
        return text


@pytest.fixture(scope="module", params=list(MODELS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp(request.param)
    source = MODELS[request.param](place / "source")
    spec = JobSpec.model_validate(
        {
            "job": {"name": "spans"},
            "model": {"source": source, "task": TASK, "max_tokens": 16},
            "peft": {"layers": [-1], "rank": 2},
            "held_out": {"file": "none.jsonl"},
            "blocks": {"head": {"directions": 8, "learning_rate": 0.1}},
        }
    )
    folder = JobFolder(place / "job")
    export_model(spec, source, folder)
    manifest = Manifest.from_bytes((folder.bundle / MANIFEST_FILE).read_bytes())
    rows = QuestionSource(write_questions(place / "rows.jsonl", 24, seed=1))
    return Exported(source, folder, manifest, Dataset.load(rows, folder.bundle / "tokenizer.json", manifest))


@pytest.fixture(scope="module")
def peft_model(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter at the moved θ, as PEFT loads it."""
    out = tmp_path_factory.mktemp("adapter")
    write_adapter(exported.folder.adapter, exported.manifest.layout, exported.theta(), out)
    return PeftModel.from_pretrained(load_base_of(out), out).eval()


def scores_of(model: Any, text: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        found = model(**text)
    return found.start_logits, found.end_logits


def test_the_manifest_says_what_it_is_for(exported: Exported) -> None:
    assert (exported.manifest.task, exported.manifest.labels) == (TASK, ())
    assert [stage.block for stage in exported.manifest.stages] == [None, "peft", "head"]
    assert exported.manifest.stages[-1].width == 2
    assert len(exported.dataset) == 24
    assert exported.dataset.learnable(np.arange(24)).sum() >= 20


def test_loss_answers_and_adapter_are_those_of_pytorch(exported: Exported, peft_model: Any, tmp_path: Path) -> None:
    """Each row alone and unpadded in PyTorch, from the adapter as PEFT loads it; together and padded in the engine."""
    dataset = exported.dataset
    rows = np.flatnonzero(dataset.learnable(np.arange(len(dataset))))
    losses, right = [], 0
    for row in rows:
        start, end = scores_of(peft_model, exported.row(row))
        first, last = (torch.tensor([int(each)]) for each in dataset.labels[row])
        losses.append(float(cross_entropy(start, first) + cross_entropy(end, last)) / 2)
        begin, stop = dataset.passages.tokens[row]
        sums = {(a, b): float(start[0, a] + end[0, b]) for a in range(begin, stop) for b in range(a, min(stop, a + 30))}
        a, b = max(sums, key=sums.__getitem__)
        said = dataset.passages.contexts[row].split()[a - begin : b + 1 - begin]  # a word is a token
        right += [word for word in said if word not in ("a", "the")] == list(dataset.passages.answers[row])
    assert np.std(losses) > 0.01
    with exported.engine(tmp_path) as engine:
        found = engine.evaluate(exported.theta(), rows)
    assert found.loss == pytest.approx(np.mean(losses), abs=2e-3)  # activations are kept in float16
    assert (found.correct, found.total) == (right, len(rows))


def test_scalars_are_directional_derivatives(exported: Exported, peft_model: Any, tmp_path: Path) -> None:
    dataset, theta, directions = exported.dataset, exported.theta(), Directions(5)
    rows = np.flatnonzero(dataset.learnable(np.arange(len(dataset))))[:6]
    trained = {name: value for name, value in peft_model.named_parameters() if "lora_" in name or "modules_to_" in name}
    for value in trained.values():
        value.requires_grad_(True)
    total = 0.0
    for row in rows:
        found = peft_model(**exported.row(row))
        first, last = (torch.tensor([int(each)]) for each in dataset.labels[row])
        total = total + (cross_entropy(found.start_logits, first) + cross_entropy(found.end_logits, last)) / 2
    (total / len(rows)).backward()
    gradient = exported.manifest.layout.pack(
        {
            spec.name: next(
                value.grad.numpy()
                for name, value in trained.items()
                if name.replace(".default", "").replace(".modules_to_save", "") == spec.name
            )
            for spec in exported.manifest.layout.tensors
        }
    )
    with exported.engine(tmp_path) as engine:
        for name, block in exported.manifest.layout.blocks.items():
            task = DirectionTask(name, np.arange(1, 9, dtype=np.uint64), 1e-3, len(rows), central=True)
            measured = np.concatenate([v for _, v in engine.derivatives(theta, directions, task, rows)])
            expected = [
                float(directions.vector(seed, block.start, block.start + block.size) @ gradient[block.slice])
                for seed in range(1, 9)
            ]
            np.testing.assert_allclose(measured, expected, atol=0.03 * np.abs(expected).max())


def test_a_new_head_scores_all_tokens_alike(exported: Exported) -> None:
    base: Any = load_base(exported.source, (), "model", task=TASK)
    assert base.newly_made == ["qa_outputs"]
    assert not torch.cat(scores_of(base, exported.row(0))).any()


def test_a_decoders_backbone_is_the_language_models(tmp_path: Path) -> None:
    source = save_decoder(tmp_path)
    base: Any = load_base(source, (), "model", task=TASK)
    expected = dict(LlamaModel.from_pretrained(source).named_parameters())
    found = dict(base.base_model.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_answering_checkpoint_keeps_its_head(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    trained = BertForQuestionAnswering(BertConfig.from_pretrained(tmp_path))
    trained.save_pretrained(tmp_path)
    base: Any = load_base(str(tmp_path), (), "model", task=TASK)
    assert torch.equal(base.qa_outputs.weight, trained.qa_outputs.weight)
    assert base.newly_made == []


@pytest.mark.parametrize(("task", "labels"), [(TASK, ()), ("classification", ("a", "b"))])
def test_a_checkpoint_without_its_backbone_is_refused(task: Any, labels: tuple[str, ...], tmp_path: Path) -> None:
    source = save_encoder(tmp_path)
    model = BertModel.from_pretrained(source)
    weights = {name: value for name, value in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(source, state_dict=weights)
    with pytest.raises(BadInputError, match=r"lacks weights of .*layer\.1\.attention.*only a head may be new"):
        load_base(source, labels, "model", task=task)


@pytest.mark.parametrize(
    ("labels", "pooling", "message"),
    [(("a", "b"), "model", "question-answering has no labels"), ((), "mean", "question-answering has no pooling")],
)
def test_labels_and_pooling_are_no_part_of_the_task(labels: Any, pooling: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message):
        load_base(str(tmp_path), labels, pooling, task=TASK)


def test_scores_are_as_the_plain_model_has_them(exported: Exported) -> None:
    """An encoder's base is AutoModelForQuestionAnswering itself: the adapter needs nothing of ours."""
    if "bert" in exported.source:
        plain = AutoModelForQuestionAnswering.from_pretrained(exported.source)
        assert type(load_base_of(exported.folder.adapter)) is type(plain)
