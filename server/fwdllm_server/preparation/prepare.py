"""Preparing a job: its model exported, θ₀ and the run's header fixed.

The export needs torch and seconds of computing, so it runs in a process of its own (:func:`export_model`); what it
leaves in the job's folder is then taken into the store (:func:`adopt`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import structlog
from sqlalchemy import Connection

from fwdllm_common.directions import Directions
from fwdllm_common.files import write_atomically
from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import RunHeader
from fwdllm_common.manifest import MANIFEST_FILE, BundleFile, Manifest
from fwdllm_common.optimizers import OptimizerSettings
from fwdllm_common.prompt import Prompt
from fwdllm_common.replay import ModelState, theta_digest
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.algorithm.auto import direction_shares, is_worth_a_frame
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.canary import CANARY_FILE, draw_canary, expect_of, fidelity
from fwdllm_server.store import jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore

_log = structlog.get_logger()

_THETA_FILE = "initial_theta.npy"
_HEAD_INIT_FILE = "head_init"


@dataclass(frozen=True)
class JobFolder:
    """Where a job keeps its model: the bundle for devices and the adapter template."""

    path: Path

    @property
    def bundle(self) -> Path:
        """The files that the manifest names, and the manifest."""
        return self.path / "bundle"

    @property
    def adapter(self) -> Path:
        """The adapter as it was at version 0."""
        return self.path / "adapter"

    @property
    def exported(self) -> bool:
        """Whether :func:`export_model` came to its end here."""
        return (self.path / _THETA_FILE).exists()


@dataclass(frozen=True)
class PreparedModel:
    """What a run begins with; while it is a ``draft``, a head made from feature sums is still missing."""

    header: RunHeader
    manifest_sha256: str
    state: ModelState
    head_init: str
    draft: bool = False


def export_model(spec: JobSpec, source: str, folder: JobFolder, texts: Sequence[str] = ()) -> None:
    """Load the model from ``source``, put the PEFT method on it, and write bundle, adapter template and θ₀.

    ``texts`` are unlabelled ones, to centre features by and for PEFT methods that look at activations.

    :raises BadInputError: no such model, it has no such layer or target, prompt or verbaliser do not suit it, or texts
        are needed and absent.
    """
    # Here and not above: the coordinator itself never loads torch.
    from fwdllm_server.model.adapter_template import BaseDescription, save_adapter_template
    from fwdllm_server.model.export import export_bundle
    from fwdllm_server.model.load import has_new_head, load_base, load_tokenizer_file
    from fwdllm_server.model.peft.methods import apply_peft
    from fwdllm_server.model.peft.sample import TextSample
    from fwdllm_server.model.pooling import centre
    from fwdllm_server.model.trainable import initial_theta
    from fwdllm_server.model.verbaliser import Prompting

    # What an interrupted export left may be linked from the artifacts: never write into it.
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    tokenizer = load_tokenizer_file(source)
    base = load_base(
        source,
        spec.model.labels,
        spec.model.pooling,
        spec.model.head == "random",
        spec.model.task,
        most_projected=len(texts) - 1,
    )
    prompt = Prompt.of(spec.model.prompt)
    Prompting(prompt, spec.model.words).prepare(base, source, tokenizer, spec.model.max_tokens)
    head_init = "verbaliser" if spec.model.words else spec.model.head if has_new_head(base) else "checkpoint"
    sample = TextSample(texts, tokenizer, spec.model.max_tokens, prompt)
    centre(base, sample.batches())
    model = apply_peft(base, spec.peft, spec.job.seed, sample)
    manifest = export_bundle(
        model,
        tokenizer.json,
        tokenizer.pad_token_id,
        spec.model.labels,
        spec.model.max_tokens,
        folder.bundle,
        one_block=spec.model.one_block,
        prompt=prompt,
        task=spec.model.task,
    )
    theta = initial_theta(model, manifest.layout)
    _finish_bundle(spec, folder.bundle, manifest, theta)
    if head_init == "class-means":
        LinearHead.of(manifest)
    description = BaseDescription(source=source, labels=spec.model.labels, pooling=spec.model.pooling)
    if spec.model.task != CLASSIFICATION:
        description["task"] = spec.model.task
    if spec.model.prompt is not None:
        description["prompt"] = spec.model.prompt
    if spec.model.verbaliser is not None:
        description["verbaliser"] = spec.model.verbaliser
    save_adapter_template(model, description, folder.adapter)
    write_atomically(folder.path / _HEAD_INIT_FILE, head_init.encode())
    np.save(folder.path / _THETA_FILE, theta)


def _finish_bundle(spec: JobSpec, bundle: Path, manifest: Manifest, theta: Float32Vector) -> None:
    """Quantise the exported weights as the job asks, and put the canary in."""
    from fwdllm_server.model.quantise import quantise_bundle

    canary = draw_canary(bundle, manifest, theta, spec.perturbation)
    if spec.model.precision != "float32":
        manifest = quantise_bundle(bundle, manifest, spec.model.precision)
        canary = expect_of(bundle, manifest, canary)
        _log.info("weights quantised", precision=spec.model.precision, signal_to_noise=round(fidelity(canary), 2))
    write_atomically(bundle / CANARY_FILE, canary.to_bytes())
    file = BundleFile.of(bundle / CANARY_FILE)
    write_atomically(bundle / MANIFEST_FILE, replace(manifest, canary=file).to_bytes())


def adopt(spec: JobSpec, folder: JobFolder, artifacts: ArtifactStore) -> PreparedModel:
    """Take what :func:`export_model` wrote into the artifacts and fix the run's header."""
    data = (folder.bundle / MANIFEST_FILE).read_bytes()
    manifest = Manifest.from_bytes(data)
    for file in manifest.files:
        artifacts.put_file(folder.bundle / file.name)
    theta: Float32Vector = np.load(folder.path / _THETA_FILE)
    header = run_header(spec, manifest.layout, theta, direction_shares(manifest))
    head_init = (folder.path / _HEAD_INIT_FILE).read_text()
    return PreparedModel(
        header=header,
        manifest_sha256=artifacts.put(data),
        state=ModelState.initial(header, manifest.layout, theta),
        head_init=head_init,
        draft=head_init == "class-means",
    )


def run_header(
    spec: JobSpec, layout: Layout, theta: Float32Vector, shares: Mapping[str, float] = MappingProxyType({})
) -> RunHeader:
    """What stays the same through a run that begins at ``theta``, float32 ``[d]``.

    ``shares`` are those of :class:`fwdllm_server.algorithm.ForwardGradient`.
    """
    return RunHeader(
        directions=Directions(run_key(spec.job.seed), spec.perturbation.distribution),
        layout_digest=layout.digest,
        initial_theta_digest=theta_digest(theta),
        optimizer=OptimizerSettings(
            spec.optimizer.kind,
            spec.optimizer.beta1,
            spec.optimizer.beta2,
            spec.optimizer.epsilon,
            spec.optimizer.weight_decay,
        ),
        orthogonal=tuple(
            name
            for name, block in layout.blocks.items()
            if (section := spec.blocks.get(name)) is not None  # type: ignore[call-overload]
            and section.directions == "auto"
            and is_worth_a_frame(block.size, shares.get(name, 1.0), spec.rounds)
        ),
    )


def save_prepared(connection: Connection, artifacts: ArtifactStore, job_id: str, prepared: PreparedModel) -> None:
    """The job can run: version 0 and what all its versions share are in the store. A draft waits for its head."""
    if prepared.draft:
        sha256 = artifacts.put(np.ascontiguousarray(prepared.state.theta, dtype="<f4").tobytes())
        jobs.drafted(connection, job_id, prepared.manifest_sha256, sha256, prepared.state.layout.size)
        return
    ledger.add_snapshot(connection, job_id, 0, artifacts.put(prepared.state.to_bytes()))
    jobs.prepared(
        connection,
        job_id,
        prepared.header.to_bytes(),
        prepared.manifest_sha256,
        prepared.head_init,
        prepared.state.layout.size,
    )


def run_key(seed: int) -> int:
    """The 64-bit key that all directions of a run with this seed share."""
    digest = hashlib.sha256(b"fwdllm run key 1\0" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")
