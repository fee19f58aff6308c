"""By scalars: the preset ``causal-lm-side`` on simulated devices, and what a directional derivative costs them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.convergence.jobs import to_toml
from benchmarks.generation.rows import MAX_TOKENS, VALIDATION_SHARE, Files, tokenised
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_client.tasks.causal_lm.rows import CompletionSource
from fwdllm_client.tasks.causal_lm.tokens import CompletionDataset
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest
from fwdllm_common.orthogonal import OrthogonalDirections
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.split import cut_stage, save_stage
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model
from fwdllm_server.simulation.curve import Point
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.simulation import Simulation
from fwdllm_server.simulation.store import DATABASE, JOB_ID, SimulationStore
from fwdllm_server.store import ledger

_SEED = 1
_THREADS = 1
_DIRECTIONS = {True: 2048, False: 16}
"""Directions that are timed: linearised, and by differences of the loss."""


@dataclass(frozen=True)
class Setting:
    """In a round a fifth of the ``devices`` measure each coordinate on ``batch`` of their rows."""

    devices: int = 100
    batch: int = 8
    rounds: int = 60
    learning_rate: float = 0.01
    evaluate_every: int = 5

    @property
    def per_round(self) -> int:
        """Devices of a round."""
        return self.devices // 5

    @property
    def name(self) -> str:
        """Of its files."""
        return "scalars-" + "-".join(f"{value:g}" for value in asdict(self).values())


def by_scalars(files: Files, setting: Setting) -> Mapping[str, Any]:
    """Return the curve of a simulation, which goes on where it was interrupted; made once and kept beside the rows."""
    kept = files.folder / f"{setting.name}.json"
    if not kept.exists():
        began = time.monotonic()
        with Simulation(
            to_toml(_job(setting)),
            files.folder,
            CompletionSource(files.training),
            Population(devices=setting.devices, seed=_SEED),
            files.folder / setting.name,
            threads=_THREADS,
            model=exported(files),
        ) as simulation:
            points = simulation.run(_tell)
        found = {
            "setting": asdict(setting),
            "points": [asdict(point) for point in points],
            "seconds": round(time.monotonic() - began),
        }
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    result: Mapping[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    losses = _validation_losses(files.folder / setting.name)
    return {**result, "points": [{**point, "validation": losses[point["version"]]} for point in result["points"]]}


def _validation_losses(folder: Path) -> Mapping[int, float | None]:
    store = SimulationStore(folder / DATABASE)
    try:
        with store.transaction() as connection:
            return {each.version: each.validation_loss for each in ledger.evaluations_of(connection, JOB_ID)}
    finally:
        store.close()


def exported(files: Files) -> JobFolder:
    """Export the model once for all settings, and cache the frozen states of the devices' rows."""
    folder = JobFolder(files.folder / "exported")
    if not folder.exported:
        spec, held_out = JobSpec.model_validate(_job(Setting())), CompletionSource(files.held_out)
        export_model(spec, str(files.model), folder, held_out.texts(), held_out)
    done = folder.path / "cached"
    if not done.exists():
        # The simulation copies what its devices have cached: all rows at once open the frozen stages once.
        manifest, rows = _manifest_of(folder), tokenised(files).training
        with Engine(folder.bundle, manifest, rows, folder.path / "cache" / "devices", _THREADS) as engine:
            engine.evaluate(np.load(folder.initial_theta), np.arange(len(rows)))
        done.touch()
    return folder


def _manifest_of(folder: JobFolder) -> Manifest:
    return Manifest.from_bytes((folder.bundle / MANIFEST_FILE).read_bytes())


def cpu_seconds(files: Files, batch: int) -> Mapping[str, float]:
    """Return the CPU seconds of a directional derivative on a batch, linearised and by differences of the loss.

    The frozen states are cached before, for both. Made once and kept beside the rows.
    """
    kept, model = files.folder / f"cpu-{batch}.json", exported(files)
    if not kept.exists():
        manifest, dataset, cache = _manifest_of(model), tokenised(files).training, model.path / "cache" / "devices"
        theta = np.load(model.initial_theta)
        with TemporaryDirectory(dir=files.folder) as scratch:
            plain = Path(scratch) / "bundle"
            differences = _without_slopes(model.bundle, manifest, plain)
            found = {
                "linearised": _timed(model.bundle, manifest, dataset, theta, batch, cache),
                "differences": _timed(plain, differences, dataset, theta, batch, cache),
            }
        kept.write_text(json.dumps(found), encoding="utf-8")
    result: Mapping[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def _timed(bundle: Path, manifest: Manifest, dataset: CompletionDataset, theta: Any, batch: int, cache: Path) -> float:
    rows, count = np.arange(batch), _DIRECTIONS[manifest.linearised]
    directions = OrthogonalDirections(_SEED, 0, manifest.layout.size)

    def measure(number: int) -> float:
        task = DirectionTask("peft", np.arange(number, dtype=np.uint64), 1e-3, batch)
        began = time.process_time()
        for _ in engine.derivatives(theta, directions, task, rows):
            pass
        return time.process_time() - began

    with Engine(bundle, manifest, dataset, cache, _THREADS) as engine:
        measure(1)
        # What is done once, such as the slopes, is in the frame of a device, and belongs to all of its directions.
        once = measure(1)
        return (measure(count) - once) / (count - 1) + once / directions.order


def _without_slopes(bundle: Path, manifest: Manifest, folder: Path) -> Manifest:
    """Write the bundle of the same model whose devices take differences of the loss."""
    # The frozen stages are not opened: what they give is cached.
    shutil.copytree(bundle, folder, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("prefix*.data"))
    output = manifest.stages[-1]
    model = ir.external_data.load_to_model(ir.load(folder / output.graph.name))
    stage = cut_stage(model, {name: name for name in output.inputs}, {name: name for name in ("loss", "logits")})
    for file in (output.graph, output.weights):
        if file is not None:
            (folder / file.name).unlink()
    weights = save_stage(stage, folder / output.graph.name)
    changed = replace(
        output,
        graph=BundleFile.of(folder / output.graph.name),
        weights=None if weights is None else BundleFile.of(weights),
    )
    return replace(manifest, stages=(*manifest.stages[:-1], changed), linearised=False)


def _tell(point: Point) -> None:
    print(f"scalars, version {point.version}: loss {point.loss:.3f}, exact {point.exact_match or 0:.1%}", flush=True)


def _job(setting: Setting) -> dict[str, Any]:
    return {
        "preset": "causal-lm-side",
        "job": {"name": "clinc", "seed": _SEED},
        "model": {"source": "model", "task": "causal-lm", "max_tokens": MAX_TOKENS},
        "held_out": {"file": "held_out.jsonl", "validation": VALIDATION_SHARE},
        "rounds": {
            "count": setting.rounds,
            "min_devices": setting.per_round,
            "max_devices": setting.per_round,
            "evaluate_every": setting.evaluate_every,
        },
        "blocks": {"peft": {"batch_size": setting.batch, "learning_rate": setting.learning_rate}},
    }
