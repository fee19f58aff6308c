"""The report: candidates ranked by expected loss decrease at one budget of device time, as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import sqrt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fwdllm_server.profiler.candidates import name_of
from fwdllm_server.profiler.measurement import Measurement
from fwdllm_server.profiler.peft_block import settings_of
from fwdllm_server.profiler.progress import ExpectedProgress
from fwdllm_server.profiler.scalars import Scalars
from fwdllm_server.profiler.similarity import law
from fwdllm_server.profiler.traffic import traffic_of_round


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Part):
    """The settings that all measurements share."""

    job: str
    model: str
    directions: int
    rows: int
    seed: int
    threads: int
    distribution: str
    difference: str


class SimilarityReport(_Part):
    """Cosine of forward and true gradient: mean and standard deviation over ``groups`` of ``directions`` each."""

    directions: int
    groups: int
    cosine: float
    std: float | None
    law: float


class DropReport(_Part):
    """Expected decrease of the loss (nats), its standard error, and its ratio to seconds and to example-passes."""

    expected: float
    error: float
    per_second: float
    per_pass: float


class AtBudget(_Part):
    """The result within the budget: the number of directions, their expected cosine, the decrease of the loss.

    ``drop`` is None if the loss does not fall along ĝ. Bytes are those of one device that measures all directions.
    """

    directions: int
    law: float
    drop: DropReport | None
    bytes_up: int
    bytes_down: int


class CurvatureReport(_Part):
    """The curvatures of :class:`~fwdllm_server.profiler.progress.ExpectedProgress`."""

    own: float
    noise: float
    enough_directions: float


class CandidateReport(_Part):
    """One candidate. ``peft`` has the keys of a job file.

    ``check`` is the ratio of the measured to the expected decrease of the tried steps; it is 1 for a quadratic loss.
    """

    rank: int
    name: str
    peft: dict[str, Any]
    coordinates: int
    epsilon: float
    loss: float
    gradient_norm: float
    curvature: CurvatureReport | None
    check: float | None
    seconds_per_direction: float
    passes_per_direction: float
    bundle_bytes: int
    similarities: list[SimilarityReport]
    at_budget: AtBudget


class Report(_Part):
    """Candidates, the best first. The budget is the time that the cheapest one needs for all its directions."""

    format: Literal[1] = 1
    settings: Settings
    environment: dict[str, str]
    budget_seconds: float
    candidates: list[CandidateReport]
    left_out: dict[str, str]


def make_report(
    measurements: Sequence[Measurement],
    settings: Settings,
    environment: Mapping[str, str],
    left_out: Mapping[str, str],
) -> Report:
    """Rank the measured candidates. ``left_out`` maps names of other candidates to why they were not measured."""
    budget = min(len(each.scalars.seeds) * each.scalars.seconds_each for each in measurements)
    candidates = sorted((_candidate(each, budget) for each in measurements), key=_drop_per_second, reverse=True)
    return Report(
        settings=settings,
        environment=dict(environment),
        budget_seconds=budget,
        candidates=[each.model_copy(update={"rank": rank}) for rank, each in enumerate(candidates, start=1)],
        left_out=dict(left_out),
    )


def _drop_per_second(candidate: CandidateReport) -> float:
    drop = candidate.at_budget.drop
    return drop.per_second if drop is not None else 0.0


def _candidate(measured: Measurement, budget: float) -> CandidateReport:
    return CandidateReport(
        rank=0,
        name=name_of(measured.spec),
        peft=dict(settings_of(measured.spec)),
        coordinates=measured.coordinates,
        epsilon=measured.epsilon,
        loss=measured.loss,
        gradient_norm=sqrt(measured.gradient_sq),
        curvature=_curvature(measured.progress),
        check=_check(measured),
        seconds_per_direction=measured.scalars.seconds_each,
        passes_per_direction=measured.scalars.passes_each,
        bundle_bytes=measured.bundle_bytes,
        similarities=[SimilarityReport(**asdict(each)) for each in measured.similarities],
        at_budget=_at_budget(measured, budget),
    )


def _check(measured: Measurement) -> float | None:
    steps = [descent for descent in measured.descents if descent is not None]
    return sum(step.drop for step in steps) / sum(step.expected_drop for step in steps) if steps else None


def _curvature(progress: ExpectedProgress | None) -> CurvatureReport | None:
    if progress is None:
        return None
    return CurvatureReport(
        own=progress.own_curvature, noise=progress.noise_curvature, enough_directions=progress.enough
    )


def _at_budget(measured: Measurement, budget: float) -> AtBudget:
    # A tolerance for rounding, so that the cheapest candidate affords all its directions.
    affordable = max(1, int(budget / measured.scalars.seconds_each * (1 + 1e-9)))
    traffic = traffic_of_round(measured.scalars, affordable, measured.snapshot_bytes)
    return AtBudget(
        directions=affordable,
        law=law(affordable, measured.coordinates),
        drop=_drop(measured.progress, measured.scalars, affordable),
        bytes_up=traffic.up,
        bytes_down=traffic.down,
    )


def _drop(progress: ExpectedProgress | None, scalars: Scalars, directions: int) -> DropReport | None:
    if progress is None:
        return None
    drop = progress.drop(directions)
    return DropReport(
        expected=drop,
        error=drop * progress.error,
        per_second=drop / (directions * scalars.seconds_each),
        per_pass=drop / (directions * scalars.passes_each),
    )
