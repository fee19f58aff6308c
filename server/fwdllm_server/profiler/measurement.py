"""Measure one candidate: scalars, gradient, similarity, curvature and cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fwdllm_client.data import Dataset
from fwdllm_client.engine import DirectionTask, Engine
from fwdllm_common.directions import Directions
from fwdllm_common.errors import BadInputError
from fwdllm_common.layout import Block, Float32Vector
from fwdllm_common.replay import ModelState
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.trainable import HEAD_BLOCK, PEFT_BLOCK
from fwdllm_server.preparation.run_header import run_header, run_key
from fwdllm_server.profiler.candidate_model import CandidateModel, ModelMaker
from fwdllm_server.profiler.closed_form_head import with_closed_form_head
from fwdllm_server.profiler.curvature import Descent, Loss, descend
from fwdllm_server.profiler.progress import ExpectedProgress, expected_progress
from fwdllm_server.profiler.public_rows import PublicRows
from fwdllm_server.profiler.scalars import PARTS, Scalars, measure_scalars
from fwdllm_server.profiler.similarity import Similarity, forward_gradients, similarities
from fwdllm_server.profiler.true_gradient import true_gradient


@dataclass(frozen=True, eq=False)
class Measurement:
    """The measured numbers of a candidate for the report, and its scalars.

    ``coordinates`` is d, the length of the PEFT block, and ``epsilon`` the step along a direction. ``loss`` (nats) and
    ``gradient_sq``, ‖g‖², are those of the gradient rows at θ₀. Each of ``descents`` is along ĝ of one of
    :data:`PARTS` groups of directions, and None if the loss does not fall along it.
    """

    spec: PeftSpec
    coordinates: int
    epsilon: float
    loss: float
    gradient_sq: float
    scalars: Scalars
    similarities: Sequence[Similarity]
    descents: Sequence[Descent | None]
    progress: ExpectedProgress | None
    bundle_bytes: int
    snapshot_bytes: int


class Bench:
    """Measures candidates one by one, on the same rows, with the same head and the same directions."""

    def __init__(self, spec: JobSpec, maker: ModelMaker, rows: PublicRows, count: int, seed: int, threads: int) -> None:
        self._spec = spec
        self._maker = maker
        self._rows = rows
        self._count = count
        self._threads = threads
        self._directions = Directions(run_key(seed), spec.perturbation.distribution)
        self._dataset: Dataset | None = None
        self._head: Float32Vector | None = None

    def measure(self, spec: PeftSpec, tick: Callable[[int], None]) -> Measurement:
        """Measure a candidate.

        :param tick: called with the number of directions that were measured since the last call.
        :raises BadInputError: the candidate does not fit the model, or the model cannot be profiled.
        """
        with tempfile.TemporaryDirectory(prefix="fwdllm-profile-") as folder:
            model = self._maker.make(spec, Path(folder))
            if self._dataset is None:  # all candidates share tokenizer and length
                tokenizer = model.folder / model.manifest.tokenizer.name
                self._dataset = Dataset.load(self._rows.source, tokenizer, model.manifest)
            cache = Path(folder) / "cache"
            with Engine(model.folder, model.manifest, self._dataset, cache, self._threads) as engine:
                theta = self._with_head(engine, model)
                return self._measure(spec, model, theta, engine, self._dataset, tick)

    def _measure(
        self,
        spec: PeftSpec,
        model: CandidateModel,
        theta: Float32Vector,
        engine: Engine,
        dataset: Dataset,
        tick: Callable[[int], None],
    ) -> Measurement:
        layout, rows = model.manifest.layout, self._rows.gradient
        block = layout.block(PEFT_BLOCK)
        gradient = true_gradient(model.model, layout, theta, dataset, rows)[block.slice]
        if not gradient.any():
            raise BadInputError("the loss does not depend on its weights; leave it out")
        task = self._task(theta[block.slice])
        scalars = measure_scalars(engine, theta, self._directions, task, rows, tick)
        loss, weights, part = self._loss(engine, theta, block), theta[block.slice], self._count // PARTS
        descents: list[Descent | None] = []
        for estimate in forward_gradients(self._directions, scalars, block, part, PARTS):
            guess = descents[-1] if descents else None
            descents.append(descend(loss, weights, estimate, gradient, guess))
        own = descend(loss, weights, gradient, gradient)
        state = ModelState.initial(run_header(self._spec, layout, theta), layout, theta)
        return Measurement(
            spec=spec,
            coordinates=block.size,
            epsilon=task.epsilon,
            loss=loss(weights),
            gradient_sq=float(np.square(gradient, dtype=np.float64).sum()),
            scalars=scalars,
            similarities=similarities(self._directions, scalars, block, gradient),
            descents=descents,
            progress=expected_progress(own, descents, part),
            bundle_bytes=sum(file.bytes for file in model.manifest.files),
            snapshot_bytes=len(state.to_bytes()),
        )

    def _with_head(self, engine: Engine, model: CandidateModel) -> Float32Vector:
        """Return θ₀ with the head for profiling, which is computed once: all candidates start as the same function."""
        if not model.new_head:
            return model.theta
        head = model.manifest.layout.block(HEAD_BLOCK).slice
        if self._head is None:
            self._head = with_closed_form_head(engine, model.manifest, model.theta, self._rows.head)[head]
        theta = model.theta.copy()
        theta[head] = self._head
        return theta

    def _task(self, weights: Float32Vector) -> DirectionTask:
        perturbation = self._spec.perturbation
        return DirectionTask(
            block=PEFT_BLOCK,
            seeds=np.arange(self._count, dtype=np.uint64),
            epsilon=perturbation.epsilon_at(weights),
            batch_size=len(self._rows.gradient),
            central=perturbation.difference == "central",
        )

    def _loss(self, engine: Engine, theta: Float32Vector, block: Block) -> Loss:
        def loss(weights: Float32Vector) -> float:
            moved = theta.copy()
            moved[block.slice] = weights
            return engine.evaluate(moved, self._rows.gradient).loss

        return loss
