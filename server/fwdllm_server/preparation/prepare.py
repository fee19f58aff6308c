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
from fwdllm_server.algorithm.auto import direction_shares, is_worth_a_frame
from fwdllm_server.algorithm.class_means import LinearHead
from fwdllm_server.config.job import JobSpec
from fwdllm_server.model.faults import faults_named
from fwdllm_server.model.source import check_source
from fwdllm_server.preparation.canary import CANARY_FILE, draw_canary, expect_of, fidelity
from fwdllm_server.store import jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore

_log = structlog.get_logger()

_THETA_FILE = "initial_theta.npy"
_HEAD_INIT_FILE = "head_init"
_STEP_FILE = "step"


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
    def step(self) -> str:
        """What :func:`export_model` is doing here now; empty before it begins."""
        try:
            return (self.path / _STEP_FILE).read_text(encoding="utf-8")
        except OSError:
            return ""

    def begin(self, step: str) -> None:
        """Say what is being done from now on."""
        (self.path / _STEP_FILE).write_text(step, encoding="utf-8")

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

    @property
    def first_version(self) -> bytes:
        """What is kept of it among the artifacts: the snapshot of version 0, or a draft's θ without its head."""
        if self.draft:
            return np.ascontiguousarray(self.state.theta, dtype="<f4").tobytes()
        return self.state.to_bytes()


@faults_named
def export_model(spec: JobSpec, source: str, folder: JobFolder, texts: Sequence[str] = ()) -> None:
    """Load the model from ``source``, put the PEFT method on it, and write bundle, adapter template and θ₀.

    ``texts`` are unlabelled ones, to centre features by and for PEFT methods that look at activations.

    :raises BadInputError: no such model, it cannot be exported, it has no such layer or target, prompt or verbaliser do
        not suit it, its tokenizer has more tokens than it, or texts are needed and absent.
    :raises FwdllmError: not enough memory.
    """
    # Here and not above: the coordinator itself never loads torch.
    from fwdllm_server.model.adapter_template import Reading, save_adapter_template, tokenizer_for
    from fwdllm_server.model.export import export_bundle
    from fwdllm_server.model.load import check_vocabulary, has_new_head, load_base, load_tokenizer_file
    from fwdllm_server.model.peft.methods import apply_peft
    from fwdllm_server.model.peft.sample import TextSample
    from fwdllm_server.model.pooling import centre
    from fwdllm_server.model.trainable import initial_theta
    from fwdllm_server.model.verbaliser import Prompting

    check_source(source)
    # What an interrupted export left may be linked from the artifacts: never write into it.
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    folder.begin("reading the model")
    tokenizer = load_tokenizer_file(source)
    base = load_base(
        source,
        spec.model.labels,
        spec.model.pooling,
        spec.model.head == "random",
        spec.model.task,
        most_projected=len(texts) - 1,
    )
    check_vocabulary(base, tokenizer, source)
    prompt = Prompt.of(spec.model.prompt)
    Prompting(prompt, spec.model.words).prepare(base, source, tokenizer, spec.model.max_tokens)
    head_init = "verbaliser" if spec.model.words else spec.model.head if has_new_head(base) else "checkpoint"
    sample = TextSample(texts, tokenizer, spec.model.max_tokens, prompt)
    centre(base, sample.batches())
    model = apply_peft(base, spec.peft, spec.job.seed, sample)
    folder.begin("exporting the model's graph")
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
        no_answer=spec.model.no_answer,
    )
    theta = initial_theta(model, manifest.layout)
    folder.begin("computing the canary" if spec.model.precision == "float32" else "quantising the weights")
    _finish_bundle(spec, folder.bundle, manifest, theta)
    if head_init == "class-means":
        LinearHead.of(manifest)
    reading = Reading(spec.model.max_tokens, spec.model.task, spec.model.prompt, spec.model.verbaliser)
    save_adapter_template(model, tokenizer_for(source, tokenizer, spec.model.max_tokens), reading, folder.adapter)
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
    for file in Manifest.from_bytes(data).files:
        artifacts.put_file(folder.bundle / file.name)
    artifacts.put(data)
    return prepared_in(spec, folder)


def prepared_in(spec: JobSpec, folder: JobFolder) -> PreparedModel:
    """What a run of the model that :func:`export_model` wrote begins with."""
    data = (folder.bundle / MANIFEST_FILE).read_bytes()
    manifest = Manifest.from_bytes(data)
    theta: Float32Vector = np.load(folder.path / _THETA_FILE)
    header = run_header(spec, manifest.layout, theta, direction_shares(manifest))
    head_init = (folder.path / _HEAD_INIT_FILE).read_text()
    return PreparedModel(
        header=header,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
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
    sha256 = artifacts.put(prepared.first_version)
    if prepared.draft:
        jobs.drafted(connection, job_id, prepared.manifest_sha256, sha256, prepared.state.layout.size)
        return
    ledger.add_snapshot(connection, job_id, 0, sha256)
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
