"""The job file: one TOML document that says what to train, how, and when it is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_server.model.peft_spec import PeftSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobSection(_Section):
    """``name`` for people; ``seed`` fixes the initial PEFT weights and every direction of the run."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=1 << 63)


class ModelSection(_Section):
    """Which model, on which task.

    ``source`` is a hub id or a folder; ``pooling`` is how token states become a feature: as the model's own
    classification head does it, or the mean over tokens with a new linear head.
    """

    source: str
    labels: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(min_length=2, max_length=1024)
    max_tokens: int = Field(default=128, ge=2, le=8192)
    pooling: Literal["model", "mean"] = "model"

    @model_validator(mode="after")
    def _unique_labels(self) -> ModelSection:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is given twice")
        return self


class HeldOutSection(_Section):
    """The coordinator's own rows: CSV, JSONL or Parquet, never seen by a device."""

    file: str
    text_column: str = "text"
    label_column: str = "label"


class OptimizerSection(_Section):
    """The coordinator's optimiser; learning rates are the blocks' own, scaled by the schedule over ``rounds.count``."""

    kind: Literal["sgd", "momentum", "adam"] = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"


class PerturbationSection(_Section):
    """How far θ is moved along a direction: ε = max(``epsilon``, ``relative`` · RMS of the block's weights)."""

    epsilon: float = Field(default=1e-3, gt=0)
    relative: float = Field(default=0.01, ge=0)


class RoundsSection(_Section):
    """The rounds' number and bounds; times are seconds.

    A round waits for ``min_devices`` and takes at most ``max_devices``; they have ``accept_s`` to fetch their
    assignment and ``deadline_s`` to report. At the deadline the round commits if ``min_fraction`` of the directions are
    in, else it is abandoned. ``over_assign`` hands out more directions than are waited for, since devices vanish; an
    assignment without news for ``assignment_s`` is given to others. ``evaluate_every`` and
    ``federated_evaluate_every`` count rounds; 0 is never (the last round is always evaluated on held-out rows).
    """

    count: int = Field(default=50, ge=1, le=1_000_000)
    min_devices: int = Field(default=1, ge=1)
    max_devices: int = Field(default=100, ge=1)
    accept_s: float = Field(default=60.0, gt=0)
    deadline_s: float = Field(default=600.0, gt=0)
    assignment_s: float = Field(default=120.0, gt=0)
    min_fraction: float = Field(default=0.5, gt=0, le=1)
    over_assign: float = Field(default=1.0, ge=1, le=4)
    evaluate_every: int = Field(default=5, ge=0)
    federated_evaluate_every: int = Field(default=0, ge=0)
    max_abandoned: int = Field(default=10, ge=0)

    @model_validator(mode="after")
    def _devices_in_order(self) -> RoundsSection:
        if self.max_devices < self.min_devices:
            raise ValueError("max_devices is below min_devices")
        return self


class BlockSection(_Section):
    """The directions of one block of θ.

    A round begins with ``directions`` and goes on in steps of as many, up to ``max_directions``, while the variance of
    the estimate is above ``variance_threshold``: ``relative`` is the variance over the squared gradient, ``absolute``
    the paper's difference of two halves, in units of the gradient squared. The block takes part from round
    ``first_round`` on, every ``every`` rounds.
    """

    directions: int = Field(ge=1, le=MAX_DIRECTIONS)
    max_directions: int = Field(default=0, ge=0, le=MAX_DIRECTIONS)
    batch_size: int = Field(default=16, ge=1, le=65536)
    learning_rate: float = Field(gt=0)
    pacing: Literal["relative", "absolute"] = "relative"
    variance_threshold: float = Field(default=float("inf"), gt=0, allow_inf_nan=True)
    first_round: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> BlockSection:
        if 0 < self.max_directions < self.directions:
            raise ValueError("max_directions is below directions")
        return self


class JobSpec(_Section):
    """A whole job file; ``blocks`` are keyed by block name, ``head`` and ``peft``."""

    job: JobSection
    model: ModelSection
    peft: PeftSpec = PeftSpec()
    held_out: HeldOutSection
    optimizer: OptimizerSection = OptimizerSection()
    perturbation: PerturbationSection = PerturbationSection()
    rounds: RoundsSection = RoundsSection()
    blocks: dict[Literal["peft", "head"], BlockSection] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_round_has_directions(self) -> JobSpec:
        if not any(block.first_round == 1 and block.every == 1 for block in self.blocks.values()):
            raise ValueError("at least one block must take part in every round (first_round = 1, every = 1)")
        return self
