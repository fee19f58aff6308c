"""The report: candidates ranked by the passes that they need for what the best one learns, as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fwdllm_server.profiler.candidates import name_of
from fwdllm_server.profiler.measurement import Measurement
from fwdllm_server.profiler.peft_block import settings_of
from fwdllm_server.profiler.training import Epoch, best_of


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Part):
    """The settings that all measurements share; ``metric`` is what ``score`` is."""

    job: str
    model: str
    metric: str
    rows: int
    validation_rows: int
    epochs: int
    seed: int
    threads: int


class Difference(_Part):
    """How much lower a mean loss is (nats), with its standard error over the rows."""

    mean: float
    error: float


class BlockReport(_Part):
    """A block of d ``coordinates``, of which a direction takes the share f (``direction``) of a row's pass."""

    coordinates: int
    direction: float


class EpochReport(_Part):
    """The validation rows' ``loss`` (nats) and score after so many example-passes of forward gradients, by the law."""

    passes: float
    loss: float
    score: float


class CandidateReport(_Part):
    """One candidate. ``peft`` has the keys of a job file; loss and score are those of its best epoch.

    ``gradient_passes`` is Σ d · f. ``passes_to_target`` is None if it did not learn as much as the best candidate.
    ``gain`` is over the head alone, None if that was not measured.
    """

    rank: int
    name: str
    peft: dict[str, Any]
    blocks: dict[str, BlockReport]
    gradient_passes: float
    loss: float
    score: float
    gain: Difference | None
    passes_to_target: float | None
    epochs: list[EpochReport]
    bundle_bytes: int


class Report(_Part):
    """Candidates, the best first."""

    format: Literal[2] = 2
    settings: Settings
    environment: dict[str, str]
    candidates: list[CandidateReport]
    left_out: dict[str, str]


def make_report(
    measurements: Sequence[Measurement],
    settings: Settings,
    environment: Mapping[str, str],
    left_out: Mapping[str, str],
) -> Report:
    """Rank the measured candidates. ``left_out`` maps names of other candidates to why they were not measured."""
    plain = next((best_of(each.epochs) for each in measurements if each.spec.layers == []), None)
    return Report(
        settings=settings,
        environment=dict(environment),
        candidates=ranked([_candidate(each, plain) for each in measurements]),
        left_out=dict(left_out),
    )


def ranked(candidates: Sequence[CandidateReport]) -> list[CandidateReport]:
    """Return the candidates with their ranks and their passes to the target, the best first.

    The target is the least loss of any, plus twice the standard error of its gain over the head alone. First come those
    that reach it, by their passes, then the others, by their loss.
    """
    best = min(candidates, key=lambda each: each.loss)
    target = best.loss + (2 * best.gain.error if best.gain else 0.0)
    found = sorted(
        (each.model_copy(update={"passes_to_target": _passes(each, target)}) for each in candidates), key=_order
    )
    return [each.model_copy(update={"rank": rank}) for rank, each in enumerate(found, start=1)]


def _passes(candidate: CandidateReport, target: float) -> float | None:
    return next((epoch.passes for epoch in candidate.epochs if epoch.loss <= target), None)


def _order(candidate: CandidateReport) -> tuple[bool, float]:
    passes = candidate.passes_to_target
    return passes is None, candidate.loss if passes is None else passes


def _candidate(measured: Measurement, plain: Epoch | None) -> CandidateReport:
    best, cost = best_of(measured.epochs), measured.cost
    return CandidateReport(
        rank=0,
        name=name_of(measured.spec),
        peft=dict(settings_of(measured.spec)),
        blocks={
            name: BlockReport(coordinates=size, direction=cost.shares[name]) for name, size in cost.coordinates.items()
        },
        gradient_passes=cost.gradient,
        loss=best.loss,
        score=best.score,
        gain=None if plain is None else difference(plain.losses, best.losses),
        passes_to_target=None,
        epochs=[
            EpochReport(passes=cost.passes(measured.rows, epoch.visits), loss=epoch.loss, score=epoch.score)
            for epoch in measured.epochs
        ],
        bundle_bytes=measured.bundle_bytes,
    )


def difference(losses: NDArray[np.float64], lower: NDArray[np.float64]) -> Difference:
    """Return how much lower the mean of the second losses is, both of the same rows, float64 ``[rows]``."""
    each = losses - lower
    error = float(each.std(ddof=1)) / sqrt(len(each)) if len(each) > 1 else 0.0
    return Difference(mean=float(each.mean()), error=error)
