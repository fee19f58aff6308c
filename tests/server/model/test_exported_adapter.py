"""An exported adapter in the hands of somebody who has torch, transformers and PEFT, and not fwdllm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.without_fwdllm import run_without_fwdllm
from server.model.conftest import LABELS, MAX_TOKENS, MODELS, batch, load_theta, save_model, spec_of

from fwdllm_server.config.peft_spec import MethodName
from fwdllm_server.model.adapter import name_base, write_adapter
from fwdllm_server.model.adapter_template import Reading, save_adapter_template, tokenizer_for
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.pooling import centre
from fwdllm_server.model.trainable import initial_theta, trainable_layout

# PEFT 0.21 asks transformers by a name that 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CASES: list[tuple[str, MethodName]] = [
    ("bert", "lora"),
    ("bert", "lora-xs"),
    ("bert", "bitfit"),
    ("bert", "ia3"),
    ("bert", "adapter"),
    ("bert-layer-means", "lora-fa"),
    ("bert-layer-means", "adapter"),
    ("distilbert", "lora"),
    ("llama", "lora"),
]
TEXTS = ["w3 w4 w5", "w7", " ".join(["w9 w8"] * 40)]

LOAD = """
import json, sys
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

trust = {"trust_remote_code": True}
ids, mask, texts = json.load(open("given.json"))
batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
found = {}

def note(name, model):
    with torch.no_grad():
        found[name] = model.eval()(**batch).logits.tolist()

note("AutoPeftModel", AutoPeftModelForSequenceClassification.from_pretrained("given/adapter", **trust))
note("AutoModel", AutoModelForSequenceClassification.from_pretrained("moved", **trust))
base = AutoModelForSequenceClassification.from_pretrained("moved/base", **trust)
merged = PeftModel.from_pretrained(base, "moved").merge_and_unload()
note("merge_and_unload", merged)
merged.save_pretrained("merged")
AutoTokenizer.from_pretrained("moved").save_pretrained("merged")
note("save_pretrained", AutoModelForSequenceClassification.from_pretrained("merged", **trust))
said = {}
for folder in ("moved", "merged"):
    classify = pipeline("text-classification", model=folder, truncation=True, top_k=None, **trust)
    said[folder] = [[each["score"] for each in sorted(row, key=lambda each: each["label"])] for row in classify(texts)]
json.dump([found, said], sys.stdout)
"""


def exported(model: Any, source: str, folder: Path) -> Any:
    """The model at a moved θ; its adapter is in ``given/adapter``, and under another name elsewhere."""
    layout = trainable_layout(model)
    noise = np.random.default_rng(1).normal(0, 0.3, layout.size)
    theta = (initial_theta(model, layout) + noise).astype(np.float32)
    tokenizer = tokenizer_for(source, load_tokenizer_file(source), MAX_TOKENS)
    save_adapter_template(model, tokenizer, Reading(MAX_TOKENS), folder / "template")
    for name in ("given/adapter", "moved"):
        write_adapter(folder / "template", layout, theta, folder / name)
        name_base(folder / name, Path(name))
    load_theta(model, layout, theta)
    return model


def logits_of(model: Any, ids: Any, mask: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(ids), attention_mask=torch.as_tensor(mask)).logits


def tokenised(source: str) -> list[list[int]]:
    """The texts as devices read them."""
    tokenizer = tokenizer_for(source, load_tokenizer_file(source), MAX_TOKENS)
    return [tokenizer(text, truncation=True)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_loader_makes_the_trained_model(name: str, method: MethodName, tmp_path: Path) -> None:
    source = save_model(name, tmp_path / "model")
    base = load_base(source, LABELS, MODELS[name][0])
    rows = batch(6, 9, 3)
    feeds = {key: torch.from_numpy(rows[key]) for key in ("input_ids", "attention_mask")}
    centre(base, [feeds])
    model = exported(apply_peft(base, spec_of(name, method), 3), source, tmp_path)
    ids = tokenised(source)
    assert max(map(len, ids)) == MAX_TOKENS
    (tmp_path / "model").rename(tmp_path / "gone")
    given = [rows["input_ids"].tolist(), rows["attention_mask"].tolist(), TEXTS]
    (tmp_path / "given.json").write_text(json.dumps(given))

    found, said = json.loads(run_without_fwdllm(LOAD, tmp_path))
    expected = logits_of(model, rows["input_ids"], rows["attention_mask"])
    assert found.keys() == {"AutoPeftModel", "AutoModel", "merge_and_unload", "save_pretrained"}
    for loader, logits in found.items():
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4, msg=loader)
    by_label = sorted(range(len(LABELS)), key=lambda at: LABELS[at])
    for folder, scores in said.items():
        for row, each in zip(ids, scores, strict=True):
            softmax = logits_of(model, [row], [[1] * len(row)])[0].softmax(0)[by_label]
            torch.testing.assert_close(torch.tensor(each), softmax, rtol=1e-4, atol=1e-4, msg=folder)


@pytest.mark.parametrize("name", ["bert", "bert-layer-means"])
def test_nothing_in_the_folder_names_a_place_on_this_machine(name: str, tmp_path: Path) -> None:
    source = save_model(name, tmp_path / "model")
    model = apply_peft(load_base(source, LABELS, MODELS[name][0]), spec_of(name, "lora"), 3)
    exported(model, source, tmp_path)
    files = [path for path in (tmp_path / "moved").rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content, path
        assert b"fwdllm_server" not in content, path


@pytest.mark.parametrize(
    ("out", "base"),
    [
        ("adapter", "adapter/base"),
        ("models/adapter", "models/adapter/base"),
        ("/srv/models/adapter", "adapter/base"),
        ("../adapter", "adapter/base"),
    ],
)
def test_the_base_is_named_from_where_the_export_was_typed(out: str, base: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    name_base(tmp_path, Path(out))
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"r": 2, "base_model_name_or_path": base}
