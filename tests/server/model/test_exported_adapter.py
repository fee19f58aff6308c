"""An exported adapter in the hands of somebody who has torch, transformers and PEFT, and not fwdllm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.documented import blocks
from helpers.without_fwdllm import run_without_fwdllm
from server.model.conftest import LABELS, MAX_TOKENS, MODELS, batch, load_theta, save_model, spec_of
from server.model.conftest import TEXTS as UNLABELLED

from fwdllm_server.config.peft_spec import MethodName
from fwdllm_server.model.adapter import name_base, write_adapter
from fwdllm_server.model.adapter_template import Reading, save_adapter_template, tokenizer_for
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.peft.sample import TextSample
from fwdllm_server.model.pooling import centre
from fwdllm_server.model.trainable import initial_theta, trainable_layout

CASES: list[tuple[str, MethodName]] = [
    ("bert", "lora"),
    ("bert", "lora-xs"),
    ("bert", "bitfit"),
    ("bert", "ia3"),
    ("bert", "adapter"),
    ("bert-layer-means", "lora-fa"),
    ("bert-layer-means", "adapter"),
    ("bert-layer-means", "side"),
    ("bert-mean", "side"),
    ("distilbert", "lora"),
    ("llama", "lora"),
]
ROWS = batch(6, 9, 3)
TEXTS = ["w3 w4 w5", "w7", " ".join(["w9 w8"] * 40)]

LOAD = """
import json
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

trust = {"trust_remote_code": True}
names, ids, mask, texts = json.load(open("given.json"))
batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

def logits(model):
    with torch.no_grad():
        return model.eval()(**batch).logits.tolist()

def scores(folder):
    classify = pipeline("text-classification", model=folder, truncation=True, top_k=None, **trust)
    return [[each["score"] for each in sorted(row, key=lambda each: each["label"])] for row in classify(texts)]

found = {}
for name in names:
    elsewhere, plain = f"elsewhere/{name}-moved", f"{name}-merged"
    base = AutoModelForSequenceClassification.from_pretrained(f"{elsewhere}/base", **trust)
    merged = PeftModel.from_pretrained(base, elsewhere).merge_and_unload()
    merged.save_pretrained(plain)
    AutoTokenizer.from_pretrained(elsewhere).save_pretrained(plain)
    found[name] = {
        "logits": {
            "AutoPeftModel": logits(AutoPeftModelForSequenceClassification.from_pretrained(name, **trust)),
            "AutoModel": logits(AutoModelForSequenceClassification.from_pretrained(elsewhere, **trust)),
            "merge_and_unload": logits(merged),
            "save_pretrained": logits(AutoModelForSequenceClassification.from_pretrained(plain, **trust)),
        },
        "pipeline": {folder: scores(folder) for folder in (elsewhere, plain)},
    }
json.dump(found, open("found.json", "w"))
"""


def name_of(model: str, method: str) -> str:
    return f"{model}-with-{method}"


def export(model: Any, source: str, name: str, folder: Path) -> Any:
    """The model at a moved θ; its adapter is in the folder as ``name``, and under another name elsewhere."""
    layout = trainable_layout(model)
    noise = np.random.default_rng(1).normal(0, 0.3, layout.size)
    theta = (initial_theta(model, layout) + noise).astype(np.float32)
    template = folder / "templates" / name
    save_adapter_template(model, tokenizer_of(source), Reading(MAX_TOKENS), template)
    for out in (Path(name), Path("elsewhere", f"{name}-moved")):
        write_adapter(template, layout, theta, folder / out)
        name_base(folder / out, Path(out.name))
    load_theta(model, layout, theta)
    return model


def tokenizer_of(source: str) -> Any:
    return tokenizer_for(source, load_tokenizer_file(source), MAX_TOKENS)


def logits_of(model: Any, ids: Any, mask: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(ids), attention_mask=torch.as_tensor(mask)).logits


@pytest.fixture(scope="module")
def token_ids(bert_source: str) -> list[list[int]]:
    """The texts as devices read them; all models have the same tokenizer."""
    return [tokenizer_of(bert_source)(text, truncation=True)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each case's trained model, and what its adapter computes in a process without fwdllm and without the source."""
    folder = tmp_path_factory.mktemp("exported")
    models = {}
    for name, method in CASES:
        case = name_of(name, method)
        source = save_model(name, folder / "sources" / case)
        base = load_base(source, LABELS, MODELS[name][0])
        centre(base, [{key: torch.from_numpy(ROWS[key]) for key in ("input_ids", "attention_mask")}])
        sample = TextSample(UNLABELLED, load_tokenizer_file(source), MAX_TOKENS)
        models[case] = export(apply_peft(base, spec_of(name, method), 3, sample), source, case, folder)
    shutil.rmtree(folder / "sources")
    shutil.rmtree(folder / "templates")
    given = [list(models), ROWS["input_ids"].tolist(), ROWS["attention_mask"].tolist(), TEXTS]
    (folder / "given.json").write_text(json.dumps(given))
    run_without_fwdllm(LOAD, folder)
    return models, json.loads((folder / "found.json").read_bytes())


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_loader_makes_the_trained_model(
    name: str, method: MethodName, loaded: tuple[Any, Any], token_ids: list[list[int]]
) -> None:
    model, found = (part[name_of(name, method)] for part in loaded)
    expected = logits_of(model, ROWS["input_ids"], ROWS["attention_mask"])
    assert expected.std() > 0.01
    for loader, logits in found["logits"].items():
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=loader)
    by_label = sorted(range(len(LABELS)), key=lambda at: LABELS[at])
    assert max(map(len, token_ids)) == MAX_TOKENS
    for folder, scores in found["pipeline"].items():
        for ids, each in zip(token_ids, scores, strict=True):
            softmax = logits_of(model, [ids], [[1] * len(ids)])[0].softmax(0)[by_label]
            np.testing.assert_allclose(each, softmax, rtol=1e-4, atol=1e-4, err_msg=folder)


@pytest.mark.parametrize("name", ["bert", "bert-layer-means"])
def test_nothing_in_the_folder_names_a_place_on_this_machine(name: str, tmp_path: Path) -> None:
    source = save_model(name, tmp_path / "model")
    model = apply_peft(load_base(source, LABELS, MODELS[name][0]), spec_of(name, "lora"), 3)
    export(model, source, "adapter", tmp_path)
    files = [path for path in (tmp_path / "adapter").rglob("*") if path.is_file()]
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


def test_the_page_on_prompts(tmp_path: Path) -> None:
    """Its Python, on the adapter of a decoder with a prompt."""
    source = save_model("llama", tmp_path / "model")
    model = apply_peft(load_base(source, LABELS, "model"), spec_of("llama", "lora"), 3)
    reading = Reading(MAX_TOKENS, prompt="{text} w3")
    save_adapter_template(model, tokenizer_of(source), reading, tmp_path / "template")
    layout = trainable_layout(model)
    write_adapter(tmp_path / "template", layout, initial_theta(model, layout), tmp_path / "adapter")
    (code,) = [block.text for block in blocks("python") if block.page == "docs/job-file.md"]
    assert "'label': 'world'" in run_without_fwdllm(code, tmp_path)  # a head of zeros: all alike
