"""LLaMA-2-7B's shape in int4: made a layer at a time, then trained in real rounds with one layer in memory at a time.

Its weights would be 26 GB in float32, so a model of three layers of the true size, two of which share weights, is
exported and quantised; the frozen layer is then copied, each copy with weights of its own, drawn as int4.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.device.memory import Watch
from benchmarks.device.work import METHODS
from benchmarks.device.workplace import THETA_FILE, TOKENS, Workplace
from benchmarks.environment import REPOSITORY, environment
from benchmarks.markdown import table
from benchmarks.reporting import Figure, make_figure, results_file
from fwdllm_client.engine import DeviceEngines, Engine
from fwdllm_common.files import write_atomically
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest, Stage

LABELS = ("a", "b", "c", "d")
_SEED = 1
_PAD = 1
_TEMPLATE_THETA = f"template-{THETA_FILE}"
_TEMPLATE_LAYERS = 3  # one frozen, two with LoRA
_SCALE = 0.02 / 4.6  # of weights q - 8 with q uniform in 0 … 15, to deviate by 0.02


@dataclass(frozen=True)
class LlamaShape:
    """A decoder by its sizes."""

    name: str
    title: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int


LLAMA_7B = LlamaShape("llama7b", "LLaMA-2-7B (6.6 G)", 32_000, 4096, 11_008, 32, 32)
TINY = LlamaShape("llama-tiny", "a tiny LLaMA", 100, 64, 96, 5, 4)


def fill_layers(shape: LlamaShape, folder: Path) -> None:
    """Make of the template in ``folder`` the int4 bundle of the shape, every frozen layer a stage of its own."""
    from fwdllm_server.model.quantise import quantise_bundle

    manifest = quantise_bundle(folder, Manifest.from_bytes((folder / MANIFEST_FILE).read_bytes()), "int4")
    embeddings, layer, *rest = manifest.stages
    copies = [_drawn_anew(folder, layer, index) for index in range(1, shape.layers - _TEMPLATE_LAYERS + 1)]
    manifest = replace(manifest, stages=(embeddings, layer, *copies, *rest))
    write_atomically(folder / MANIFEST_FILE, manifest.to_bytes())
    (folder / _TEMPLATE_THETA).rename(folder / THETA_FILE)


def export_template(shape: LlamaShape, folder: Path) -> None:
    """Export the embeddings, one frozen layer, and two with LoRA on query and value, in float32."""
    # Here and not above: what is measured does without PyTorch.
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from fwdllm_server.config.peft_spec import PeftSpec
    from fwdllm_server.model.export import ModelInputs, export_bundle
    from fwdllm_server.model.load import TokenizerFile
    from fwdllm_server.model.peft.methods import apply_peft
    from fwdllm_server.model.peft.sample import TextSample
    from fwdllm_server.model.trainable import initial_theta

    torch.manual_seed(_SEED)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=1,
        num_attention_heads=shape.heads,
        pad_token_id=_PAD,
        num_labels=len(LABELS),
    )
    model: Any = LlamaForSequenceClassification(config).float().eval().requires_grad_(False)
    layers = model.model.layers
    for index in range(1, _TEMPLATE_LAYERS):
        # Only the top layer has weights of its own: the two with LoRA are one stage, which must be of its true size.
        shared = {id(weight): weight for weight in layers[0].parameters()} if index == 1 else {}
        layers.append(copy.deepcopy(layers[0], shared))
        layers[index].self_attn.layer_idx = index
    config.num_hidden_layers = _TEMPLATE_LAYERS
    words = {f"w{index}": index for index in range(shape.vocabulary)}
    by_words = Tokenizer(WordLevel(words, unk_token="w0"))  # noqa: S106
    by_words.pre_tokenizer = WhitespaceSplit()
    tokenizer = TokenizerFile(by_words.to_str().encode(), _PAD)
    spec = PeftSpec(method="lora", layers=[-2, -1])
    model = apply_peft(model, spec, _SEED, TextSample([], tokenizer, TOKENS))
    manifest = export_bundle(model, ModelInputs(tokenizer, TOKENS, LABELS), folder, stage_weights=1)
    np.save(folder / _TEMPLATE_THETA, initial_theta(model, manifest.layout))


def _drawn_anew(folder: Path, stage: Stage, index: int) -> Stage:
    """Write a copy of the quantised ``stage`` with other weights beside it, and return it."""
    import onnx_ir as ir

    from fwdllm_server.model.split import save_stage

    model = ir.external_data.load_to_model(ir.load(folder / stage.graph.name))
    random = np.random.default_rng((_SEED, index))
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        shape = value.const_value.shape.numpy()
        if name.endswith(".int4"):
            value.const_value = ir.Tensor(random.integers(0, 256, shape, dtype=np.uint8), name=name)
        elif name.endswith(".scales"):
            scales = random.uniform(0.5 * _SCALE, 1.5 * _SCALE, shape).astype(np.float32)
            value.const_value = ir.Tensor(scales, name=name)
    graph_file = folder / f"layer-{index}.onnx"
    weights = save_stage(model, graph_file)
    return replace(stage, graph=BundleFile.of(graph_file), weights=None if weights is None else BundleFile.of(weights))


EXPORTS = {"template": export_template, "layers": fill_layers}
"""In this order and in processes of their own, which bounds the memory of each."""


def _streamed(place: Workplace) -> Callable[[], object]:
    """Return a step that predicts the batch with nothing cached and one layer in memory at a time."""
    engines = DeviceEngines(place.bundle, place.manifest, place.rows, place.cache, place.threads)
    tuning = engines.tuner.tuning()
    provider, bundle = engines.tuner.provider(tuning), (place.bundle, place.manifest, place.rows)

    def step() -> object:
        with TemporaryDirectory(dir=place.cache) as folder:
            cache = Path(folder)
            with Engine(
                *bundle, cache, tuning.threads, provider=provider, tokens_per_run=tuning.tokens_per_run
            ) as engine:
                return engine.evaluate(place.theta, np.arange(place.batch))

    return step


KINDS = {
    "streamed": ("a prediction, layers streamed", _streamed),
    "held": ("a prediction, all layers in memory", METHODS["inference"].make),
}


ROUND = "round"
"""Beside them: two rounds with an agent, see :mod:`benchmarks.device.llama_round`."""


def measured(kind: str, place: Workplace) -> dict[str, Any]:
    """Do the unit of work twice: return seconds of each, the first with what a first start takes, and peak bytes."""
    times = []
    with Watch() as watch:
        began = time.perf_counter()
        step = KINDS[kind][1](place)
        for _ in range(2):
            step()
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
    return {
        "first_seconds": times[0],
        "seconds": times[1],
        "peak_rss_bytes": watch.peak_rss_bytes,
        "peak_anonymous_bytes": watch.peak_anonymous_bytes,
    }


def report(shape: LlamaShape, place: Workplace, found: Mapping[str, Mapping[str, float]]) -> Sequence[str]:
    """Return a table, line by line."""
    titles = {ROUND: "an agent in a round, layers streamed"} | {kind: title for kind, (title, _) in KINDS.items()}
    rows = [
        [
            titles[kind],
            f"{each['peak_rss_bytes'] / 1e9:.2f}",
            f"{each['peak_anonymous_bytes'] / 1e9:.2f}",
            f"{each['first_seconds']:.0f}",
            f"{each['seconds']:.0f}",
        ]
        for kind, each in found.items()
    ]
    header = ["", "peak resident GB", "of it anonymous GB", "s, first", "s, again"]
    manifest = place.manifest
    size = sum(file.bytes for file in manifest.files) / 1e9
    texts = f"{place.batch} x {TOKENS} tokens, {place.directions} directions, {place.threads} thread"
    lines = [
        f"{shape.title}, int4, {len(manifest.stages)} stages, {size:.2f} GB of files; {texts}.",
        "",
        *table(header, rows),
    ]
    if ROUND in found:
        bytes_by_way = "sent {bytes_sent:,.0f} bytes, received {bytes_received:,.0f} and the model".format(
            **found[ROUND]
        )
        minutes = found[ROUND]["seconds_per_direction"] / 60
        lines += ["", f"In two rounds the agent {bytes_by_way}; a direction took {minutes:.2f} minutes in the second."]
    return lines


def figures(place: Workplace, found: Mapping[str, Mapping[str, float]]) -> Sequence[Figure]:
    """Return figures of an agent's two rounds, its first start included, and of a direction in the second."""
    both = found[ROUND]
    what = {
        "weights": "int4",
        "minutes_per_direction": both["seconds_per_direction"] / 60,
        "minutes_first_round": both["first_seconds"] / 60,
        "bytes_sent": both["bytes_sent"],
        "bytes_received": both["bytes_received"],
        "artifact_bytes": both["artifact_bytes"],
        "rows": place.batch,
        "threads": place.threads,
        "peer": {kind: dict(each) for kind, each in found.items() if kind != ROUND},
    }
    resident, anonymous = both["peak_rss_bytes"] / 1e9, both["peak_anonymous_bytes"] / 1e9
    return [
        make_figure("rss_gb_llama7b_int4", resident, "GB resident at most", 4.0) | what,
        make_figure("anon_gb_llama7b_streamed", anonymous, "GB anonymous at most", 1.5) | what,
    ]


def main() -> None:
    """Make the bundle, measure each kind in a process of its own, print."""
    parser = argparse.ArgumentParser(prog="make bench-llama", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model: does all of it work?")
    parser.add_argument("--keep", action="store_true", help="write the results of the repository")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--directions", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=[ROUND, *KINDS], help="only this; may be repeated")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmark-output" / "device")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = TINY if arguments.quick else LLAMA_7B
    folder, cache = arguments.output / shape.name, arguments.output / f"{shape.name}-cache"
    place = Workplace(
        shape.name, folder, cache, arguments.threads, shape.vocabulary, arguments.directions, arguments.rows
    )
    if arguments.step in EXPORTS:
        with Watch() as watch:
            EXPORTS[arguments.step](shape, folder)
        print(json.dumps({"peak_rss_bytes": watch.peak_rss_bytes}))
        return
    if arguments.step == ROUND:
        from benchmarks.device.llama_round import run_rounds  # the rest does without a coordinator

        print(json.dumps(run_rounds(place, arguments.output / f"{shape.name}-round")))
        return
    if arguments.step is not None:
        print(json.dumps(measured(arguments.step, place)))
        return
    if not (folder / THETA_FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        for step in EXPORTS:
            _alone(step)
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    found = {kind: _alone(kind) for kind in arguments.kind or [ROUND, *KINDS]}
    print("\n".join(report(shape, place, found)))
    value = {"environment": environment(), "figures": figures(place, found) if ROUND in found else []}
    results = results_file("llama") if arguments.keep else arguments.output / f"{shape.name}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(value, indent=1) + "\n")


def _alone(step: str) -> dict[str, Any]:
    """One step of this command in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.device.llama", *sys.argv[1:], "--step", step]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {step} failed\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(step, json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    main()
