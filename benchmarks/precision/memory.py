"""Files and resident memory by precision: one direction on 8 texts of 64 tokens, in a process of its own.

python -m benchmarks.precision.memory minilm
python -m benchmarks.precision.memory bert-base     # random weights
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer, BertConfig, BertModel

from benchmarks.precision.scalars import PRECISIONS
from examples.materials import minilm_folder
from fwdllm_server.cli.demo.bbc_news import TOPICS
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.export import ModelInputs, export_bundle
from fwdllm_server.model.load import load_base, load_tokenizer_file
from fwdllm_server.model.peft.methods import apply_peft
from fwdllm_server.model.quantise import quantise_bundle

MAX_TOKENS = 64
_MB = 1e6


def source_of(model: str, folder: Path) -> str:
    """Where the model is; BERT-base is made with random weights and the tokenizer of MiniLM, whose words it shares."""
    minilm = str(minilm_folder())
    if model == "minilm":
        return minilm
    BertModel(BertConfig()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Export, quantise, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=("minilm", "bert-base"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # the exporter's account of what it does
    with tempfile.TemporaryDirectory() as name:
        report(arguments.model, Path(name))


def report(model: str, folder: Path) -> None:
    """Print the table; ``folder`` is for the bundles."""
    source = source_of(model, folder / "model")
    tokenizer = load_tokenizer_file(source)
    spec = PeftSpec(rank=4, targets=["query", "value"], layers=[-2, -1])
    peft_model = apply_peft(load_base(source, TOPICS, "mean"), spec, 1)
    bundle = folder / "float32"
    manifest = export_bundle(peft_model, ModelInputs(tokenizer, MAX_TOKENS, TOPICS), bundle)
    print(f"{'precision':9} {'files MB':>8} {'anonymous MB':>12} {'mapped MB':>9} {'peak MB':>7} {'CPU s':>6}")
    for precision in PRECISIONS:
        target = folder / precision
        if precision != "float32":
            shutil.copytree(bundle, target)
        small = quantise_bundle(target, manifest, precision)
        command = [sys.executable, "-m", "benchmarks.precision.child", str(target)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        size = sum(file.bytes for file in small.files) / _MB
        memory = f"{found['anonymous'] / _MB:12.0f} {found['mapped'] / _MB:9.0f} {found['peak'] / _MB:7.0f}"
        print(f"{precision:9} {size:8.1f} {memory} {found['seconds']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
