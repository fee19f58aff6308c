"""What a run can be exported as."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

import fwdllm

TEXTS = ["the team scored a goal", "a judge heard the trial", "song and dance on stage"]


def test_the_three_formats_are_of_the_same_model(run: fwdllm.Run, tmp_path: Path) -> None:
    folders = {kind: run.export(tmp_path / kind, format=kind, version=2) for kind in ("peft", "transformers", "onnx")}

    assert (folders["peft"] / "adapter_config.json").is_file()
    assert json.loads((folders["transformers"] / "config.json").read_bytes())["id2label"] == {
        "0": "arts",
        "1": "law",
        "2": "sport",
    }
    assert all("version 2 of the model" in (folder / "README.md").read_text() for folder in folders.values())
    session = onnxruntime.InferenceSession(folders["onnx"] / "model.onnx")
    tokenizer = Tokenizer.from_file(str(folders["onnx"] / "tokenizer.json"))
    found = tokenizer.encode_batch(TEXTS)
    feeds = {
        "input_ids": np.array([each.ids for each in found]),
        "attention_mask": np.array([each.attention_mask for each in found]),
    }
    (logits,) = session.run(["logits"], feeds)
    powers = np.exp(logits)
    np.testing.assert_allclose(
        powers / powers.sum(axis=1, keepdims=True), run.model_at(2).predict_proba(TEXTS), atol=1e-4
    )


def test_an_export_fills_no_folder_that_has_files_and_knows_its_words(run: fwdllm.Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(fwdllm.FwdllmError, match="not an empty folder"):
        run.export(tmp_path)
    with pytest.raises(fwdllm.FwdllmError, match="no format 'gguf'"):
        run.export(tmp_path / "other", format="gguf")  # type: ignore[arg-type]
    with pytest.raises(fwdllm.FwdllmError, match="has no version 9"):
        run.export(tmp_path / "other", version=9)
    assert (tmp_path / "mine").read_text() == "keep"
