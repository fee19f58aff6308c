"""The job file: one TOML document that says what to train, how, and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from fwdllm_common.fixed_point import MAX_GAUSSIAN_DIRECTIONS
from fwdllm_common.secure_aggregation.cohort import MAX_MEMBERS, MIN_MEMBERS
from fwdllm_server.config.job_sections import (
    BlockName,
    BlockSection,
    DevicesSection,
    HeldOutSection,
    JobSection,
    ModelSection,
    OptimizerSection,
    PerturbationSection,
    PrivacySection,
    RobustSection,
    RoundsSection,
    Section,
    TrackingSection,
)
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.presets import Preset, with_preset
from fwdllm_server.tasks import task_named


class JobSpec(Section):
    """A whole job file; ``blocks`` are keyed by block name: ``head`` and ``peft``, of side modules the others.

    What the file leaves open comes from its ``preset``, see :func:`fwdllm_server.config.presets.with_preset`.
    """

    preset: Preset | None = None
    job: JobSection
    model: ModelSection
    peft: PeftSpec = PeftSpec()
    held_out: HeldOutSection
    devices: DevicesSection = DevicesSection()
    optimizer: OptimizerSection = OptimizerSection()
    perturbation: PerturbationSection = PerturbationSection()
    rounds: RoundsSection = RoundsSection()
    robust: RobustSection = RobustSection()
    privacy: PrivacySection = PrivacySection()
    tracking: TrackingSection = TrackingSection()
    blocks: dict[BlockName, BlockSection] = Field(min_length=1)

    @property
    def ignored_peft_keys(self) -> frozenset[str]:
        """The keys of ``[peft]`` that have no effect with its method and the task."""
        is_classifiers = self.peft.method == "side" and task_named(self.model.task).is_class
        return self.peft.ignored_keys | ({"rank"} if is_classifiers else set())

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, job: Any) -> Any:
        return _with_all_rounds(_without_clip_if_private(with_preset(job))) if isinstance(job, Mapping) else job

    @model_validator(mode="after")
    def _blocks_are_the_methods(self) -> JobSpec:
        task = task_named(self.model.task)
        is_classifiers = self.peft.method == "side" and task.is_class
        if self.peft.method == "side":
            if not task.is_class and task.has_head:
                raise ValueError(f'the method "side" is for classification and causal-lm, not for {self.model.task}')
            if self.model.one_block:
                raise ValueError("side modules have blocks of their own; leave out one_block")
            if self.ignored_peft_keys & self.peft.model_fields_set:
                raise ValueError('rank does nothing with the method "side" in classification; leave it out')
            if task.is_class and self.model.pooling == "model":
                raise ValueError('the method "side" needs [model] pooling = "layer-means" or "mean"')
        wrong = {"peft"} if is_classifiers else {"pooling", "readout"}
        if "head" in self.blocks and not task_named(self.model.task).has_head:
            raise ValueError(f'{self.model.task} has no head to train, and so no block "head"; leave it out')
        if found := sorted(wrong & set(self.blocks)):
            raise ValueError(f"there is no block {found[0]!r} with the method {self.peft.method!r}; leave it out")
        return self

    @model_validator(mode="after")
    def _devices_have_metrics(self) -> JobSpec:
        task = task_named(self.model.task)
        if task.need_all_rows and self.rounds.federated_evaluate_every:
            raise ValueError(
                f"the metrics of {task.name} ({' and '.join(task.metrics)}) need all rows in one place, so devices "
                "cannot have them; leave out [rounds] federated_evaluate_every"
            )
        return self

    @model_validator(mode="after")
    def _head_starts_once(self) -> JobSpec:
        if not self.held_out.start:
            return self
        if not task_named(self.model.task).is_class:
            raise ValueError(f"[held_out] start is for heads of classes, not for {self.model.task}; leave it out")
        if self.model.head != "zeros" or self.model.verbaliser:
            other = "verbaliser" if self.model.verbaliser else f'head = "{self.model.head}"'
            raise ValueError(f"the head starts from [held_out] start and from [model] {other}; leave out one of them")
        return self

    @model_validator(mode="after")
    def _patience_has_rows_to_watch(self) -> JobSpec:
        if self.rounds.patience and not (self.held_out.validation and self.rounds.evaluate_every):
            raise ValueError("[rounds] patience needs [held_out] validation and [rounds] evaluate_every above 0")
        return self

    @model_validator(mode="after")
    def _every_round_has_directions(self) -> JobSpec:
        if not any(block.first_round == 1 and block.every == 1 for block in self.blocks.values()):
            raise ValueError("at least one block must take part in every round (first_round = 1, every = 1)")
        return self

    @model_validator(mode="after")
    def _enough_devices_for_a_direction(self) -> JobSpec:
        most = max(block.devices_per_direction for block in self.blocks.values())
        if most > self.rounds.min_devices:
            raise ValueError(f"devices_per_direction = {most} needs as many devices; raise [rounds] min_devices")
        return self

    @model_validator(mode="after")
    def _sums_are_of_a_cohort(self) -> JobSpec:
        if not self.privacy.secure_aggregation:
            return self
        rounds = self.rounds
        refused = {
            f"min_devices = {rounds.min_devices}; set [rounds] min_devices to {MIN_MEMBERS} or more, which is the "
            "smallest cohort": rounds.min_devices < MIN_MEMBERS,
            f"max_devices = {rounds.max_devices}; at most {MAX_MEMBERS} are possible": rounds.max_devices > MAX_MEMBERS,
            "over_assign, since all devices measure the same directions; leave it out": rounds.over_assign != 1,
            "clip, since nobody sees a device's own scalars; leave it out": self.robust.clip > 0,
            'head = "class-means", which asks devices for sums of their own; use "zeros"': (
                self.model.head == "class-means"
            ),
        } | {
            f'directions = {block.directions} of the block {name}; use directions = "auto"': block.directions != "auto"
            for name, block in self.blocks.items()
        }
        if reasons := [reason for reason, is_refused in refused.items() if is_refused]:
            raise ValueError(f"secure_aggregation is not possible with {reasons[0]}")
        return self

    @model_validator(mode="after")
    def _all_that_is_released_is_accounted_for(self) -> JobSpec:
        if self.privacy.epsilon is None:
            return self
        refused = {
            "[robust] clip, which compares devices; leave it out": self.robust.clip > 0,
            "federated_evaluate_every, whose counts have no noise; leave it out, [held_out] has the accuracy": (
                self.rounds.federated_evaluate_every > 0
            ),
            'head = "class-means", whose sums have no noise; use "zeros"': self.model.head == "class-means",
            'distribution = "gaussian", whose scalars have no bound that is exact; leave it out': (
                self.perturbation.distribution == "gaussian"
            ),
        } | {
            f"directions = {block.directions} of the block {name}, which bound no gradient; use "
            'directions = "auto"': block.directions != "auto"
            for name, block in self.blocks.items()
        }
        if reasons := [reason for reason, is_refused in refused.items() if is_refused]:
            raise ValueError(f"differential privacy is not possible with {reasons[0]}")
        return self

    @model_validator(mode="after")
    def _gaussian_sums_fit(self) -> JobSpec:
        most = max(block.most_directions for block in self.blocks.values())
        if (
            self.perturbation.distribution == "gaussian"
            and most * self.rounds.over_assigned(1.0) > MAX_GAUSSIAN_DIRECTIONS
        ):
            raise ValueError(
                f"a round has at most {MAX_GAUSSIAN_DIRECTIONS} gaussian directions of a block, over-assigned ones "
                'included; lower directions or max_directions, or use distribution = "rademacher"'
            )
        return self

    @model_validator(mode="after")
    def _optimizer_has_the_reference(self) -> JobSpec:
        references = {block.sampling.reference for block in self.blocks.values() if block.sampling is not None}
        if self.optimizer.kind == "sgd" and "momentum" in references:
            raise ValueError('sampling by momentum needs an optimiser that has it; sgd has reference = "gradient"')
        return self


def _without_clip_if_private(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job file's tables; where no device's scalars are compared they have no clip unless they name one."""
    privacy, robust = job.get("privacy"), job.get("robust", {})
    is_private = isinstance(privacy, Mapping) and (privacy.get("secure_aggregation") is True or "epsilon" in privacy)
    return {**job, "robust": {"clip": 0, **robust}} if is_private and isinstance(robust, Mapping) else job


def _with_all_rounds(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job file's tables with the rounds of a device that its noise is for.

    They stay the same when an operator adds rounds: the budget does.
    """
    privacy, rounds = job.get("privacy"), job.get("rounds", {})
    if not isinstance(privacy, Mapping) or privacy.get("epsilon") is None or not isinstance(rounds, Mapping):
        return job
    most = privacy.get("rounds_per_device") or rounds.get("count", RoundsSection.model_fields["count"].default)
    return {**job, "privacy": {**privacy, "rounds_per_device": most}}
