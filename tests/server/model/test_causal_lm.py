"""Causal language modelling from checkpoint to adapter: what devices compute is what transformers and PEFT compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_completions import as_messages, completions, save_language_model, write_rows
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fwdllm_client.data import Dataset
from fwdllm_client.data.dataset import IGNORED
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.tasks.causal_lm import CompletionSource
from fwdllm_common.chat import DEFAULT_TEMPLATE
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MANIFEST_FILE, Manifest
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.adapter import write_adapter
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.model.load import load_base, load_chat
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model

TASK = "causal-lm"
MAX_TOKENS = 16


@dataclass(frozen=True)
class Exported:
    source: str
    folder: JobFolder
    manifest: Manifest
    dataset: Dataset

    def theta(self) -> Float32Vector:
        """θ₀ moved, so that every part of the adapter has an effect."""
        start = np.load(self.folder.path / "initial_theta.npy")
        return (start + np.random.default_rng(3).normal(0, 0.1, start.shape)).astype(np.float32)

    def engine(self, cache: Path) -> Engine:
        return Engine(self.folder.bundle, self.manifest, self.dataset, cache, threads=1)

    def batch(self, rows: Any) -> dict[str, torch.Tensor]:
        """Rows padded together, with labels as Hugging Face's collators write them."""
        ids, labels = [], []
        for row in rows:
            start, end = self.dataset.offsets[row : row + 2]
            ids.append(torch.from_numpy(self.dataset.token_ids[start:end].astype(np.int64)))
            labels.append(torch.from_numpy(self.dataset.labels[start:end].astype(np.int64)))
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(each) for each in ids], batch_first=True)
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": mask,
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        }


@pytest.fixture(scope="module", params=["tied", "parted"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp(request.param)
    source = save_language_model(place / "source", tied=request.param == "tied")
    spec = JobSpec.model_validate(
        {
            "job": {"name": "writing"},
            "model": {"source": source, "task": TASK, "max_tokens": MAX_TOKENS},
            "peft": {"layers": [-1], "rank": 2},
            "held_out": {"file": "none.jsonl"},
            "blocks": {"peft": {"directions": 8, "learning_rate": 0.1}},
        }
    )
    folder = JobFolder(place / "job")
    export_model(spec, source, folder)
    manifest = Manifest.from_bytes((folder.bundle / MANIFEST_FILE).read_bytes())
    rows = CompletionSource(write_rows(place / "rows.jsonl", completions(24, seed=1)))
    return Exported(source, folder, manifest, Dataset.load(rows, folder.bundle / "tokenizer.json", manifest))


@pytest.fixture(scope="module")
def peft_model(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The adapter at the moved θ, as PEFT loads it."""
    out = tmp_path_factory.mktemp("adapter")
    write_adapter(exported.folder.adapter, exported.manifest.layout, exported.theta(), out)
    return PeftModel.from_pretrained(load_base_of(out), out).eval()


def test_the_manifest_says_what_it_is_for(exported: Exported) -> None:
    manifest = exported.manifest
    assert (manifest.task, manifest.labels) == (TASK, ())
    assert [stage.block for stage in manifest.stages] == [None, "peft"]
    assert manifest.chat == load_chat(exported.source)
    assert manifest.chat.end == "</s>"


def test_the_loss_is_transformers_over_tokens_of_all_rows(exported: Exported, peft_model: Any, tmp_path: Path) -> None:
    rows = np.arange(len(exported.dataset))
    batch = exported.batch(rows)
    with torch.no_grad():
        found = peft_model(**batch)
    best, labels = found.logits.argmax(dim=-1)[:, :-1], batch["labels"][:, 1:]
    is_right = [
        (row[label != IGNORED] == label[label != IGNORED]).float() for row, label in zip(best, labels, strict=True)
    ]
    assert len({len(row) for row in is_right}) == 1
    with exported.engine(tmp_path) as engine:
        result = engine.evaluate(exported.theta(), rows)
    assert result.loss == pytest.approx(float(found.loss), abs=2e-3)  # activations are kept in float16
    assert result.total == len(rows)
    assert result.correct == sum(bool(row.all()) for row in is_right)
    assert result.f1 == pytest.approx(sum(float(row.mean()) for row in is_right), abs=1e-5)


def test_scalars_are_derivatives_of_the_mean_over_tokens(exported: Exported, peft_model: Any, tmp_path: Path) -> None:
    """Rows of one to four tokens to predict: a mean over rows would weigh their tokens otherwise."""
    mixed = [
        {**row, "completion": " " + " ".join(row["completion"].split() * (1 + i % 2))}
        for i, row in enumerate(completions(6, 5))
    ]
    source = CompletionSource(write_rows(tmp_path / "mixed.jsonl", mixed))
    dataset = Dataset.load(source, exported.folder.bundle / "tokenizer.json", exported.manifest)
    assert set(dataset.weights(np.arange(6))) == {3, 5}
    case = Exported(exported.source, exported.folder, exported.manifest, dataset)
    theta, directions, rows = case.theta(), Directions(5), np.arange(6)
    trained = {name: value for name, value in peft_model.named_parameters() if "lora_" in name}
    for value in trained.values():
        value.requires_grad_(True)
        value.grad = None
    peft_model(**case.batch(rows)).loss.backward()
    gradients = {
        name.replace(".default", ""): value.grad.numpy() for name, value in trained.items() if value.grad is not None
    }
    gradient = case.manifest.layout.pack({spec.name: gradients[spec.name] for spec in case.manifest.layout.tensors})
    with case.engine(tmp_path) as engine:
        task = DirectionTask("peft", np.arange(1, 9, dtype=np.uint64), 1e-3, len(rows), central=True)
        measured = np.concatenate([v for _, v in engine.derivatives(theta, directions, task, rows)])
    expected = [float(directions.vector(seed, 0, len(theta)) @ gradient) for seed in range(1, 9)]
    np.testing.assert_allclose(measured, expected, atol=0.03 * np.abs(expected).max())


def test_conversations_are_tokenised_as_transformers_does(exported: Exported, tmp_path: Path) -> None:
    rows = [as_messages(row) for row in completions(5, seed=2)]
    tokenizer = AutoTokenizer.from_pretrained(exported.source)
    source = CompletionSource(write_rows(tmp_path / "chats.jsonl", rows))
    dataset = Dataset.load(source, exported.folder.bundle / "tokenizer.json", exported.manifest)
    for index, row in enumerate(rows):
        start, end = dataset.offsets[index : index + 2]
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert dataset.token_ids[start:end].tolist() == expected
        answer = tokenizer.decode([token for token in dataset.labels[start:end] if token != IGNORED])
        assert answer == f"{row['messages'][1]['content']} </s>"


def test_the_adapter_is_one_of_transformers(exported: Exported, peft_model: Any) -> None:
    plain = AutoModelForCausalLM.from_pretrained(exported.source)
    batch = exported.batch(range(3))
    with torch.no_grad():
        assert not torch.allclose(plain(**batch).logits, peft_model(**batch).logits)
        base = load_base_of(exported.folder.adapter)
        torch.testing.assert_close(plain(**batch).logits, base(**batch).logits)


def test_a_model_without_a_template_gets_the_default(tmp_path: Path) -> None:
    assert load_chat(save_language_model(tmp_path, chat_template=None)).template == DEFAULT_TEMPLATE


def test_a_checkpoint_without_a_language_models_head_is_refused(tmp_path: Path) -> None:
    source = save_language_model(tmp_path, tied=False)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.save_pretrained(
        source, state_dict={k: v for k, v in model.state_dict().items() if not k.startswith("lm_head")}
    )
    with pytest.raises(BadInputError, match="holds no language model's head"):
        load_base(source, (), "model", task=TASK)
