"""The job file: one TOML document that says what to train, how, and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fwdllm_common.directions import Distribution, step_length
from fwdllm_common.fixed_point import MAX_DIRECTIONS, MAX_GAUSSIAN_DIRECTIONS
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MOST_CLASS_WEIGHT
from fwdllm_common.optimizers import OptimizerKind
from fwdllm_common.prompt import PLACEHOLDER
from fwdllm_common.protocol import MOST_PRIORITY
from fwdllm_common.secure_aggregation.cohort import MAX_MEMBERS, MIN_MEMBERS
from fwdllm_common.task import CLASSIFICATION, find_task, known_tasks
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.config.precision import Precision
from fwdllm_server.config.presets import Preset, with_preset
from fwdllm_server.config.toml_model import near, validate
from fwdllm_server.tasks import MODEL_KEYS, all_tasks, task_named

MOST_OVER_ASSIGNED = 4.0
MOST_ROUNDS = 1_000_000
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
BlockName = Literal["peft", "pooling", "readout", "head"]
_LEAST_LABELS = 2


class Budget(NamedTuple):
    """The (``epsilon``, ``delta``) of a device after ``releases`` of sums that it is in with a norm of ``clip``."""

    epsilon: float
    delta: float
    clip: float
    releases: int


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobSection(_Section):
    """The job's ``name``, shown to people, and its ``seed``, which fixes initial PEFT weights and all directions.

    Of jobs that wait for the same devices, the one with the highest ``priority`` gets them.
    """

    name: Name
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    priority: int = Field(default=0, ge=-MOST_PRIORITY, le=MOST_PRIORITY)


class ModelSection(_Section):
    """Which model, on which ``task``.

    ``source`` is a hub id, a folder or a ``.gguf`` file; ``pooling`` is how token states become a feature: as the
    model's own classification head does it, or the mean over tokens with a new linear head, which with ``layer-means``
    reads the means of the embeddings and the middle layer too, centred by held-out texts and, where labels are many,
    projected. A head that the checkpoint lacks starts with ``head``; ``class-means`` asks devices for per-class sums of
    features. With ``one_block`` directions of block ``peft`` cover the head too. ``precision`` is that of the weights
    that are not trained. A decoder may read each text in a ``prompt``, and its head may start as the language model's
    scores of the words that the ``verbaliser`` has for the labels. ``labels``, pooling, prompt and words are those of
    tasks that have them; labels that are left out are those of the held-out rows. ``class_weights`` weight the loss by
    a row's label; ``balanced`` ones are inversely proportional to the held-out rows' numbers of labels. With
    ``no_answer`` a model that answers questions learns that some have none.
    """

    source: str
    task: str = CLASSIFICATION
    labels: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default_factory=list, max_length=1024)
    max_tokens: int = Field(default=128, ge=2, le=8192)
    pooling: Literal["model", "mean", "layer-means"] = "model"
    head: Literal["zeros", "random", "class-means"] = "zeros"
    one_block: bool = False
    precision: Precision = "float32"
    no_answer: bool = False
    prompt: str | None = None
    verbaliser: dict[str, Annotated[str, Field(min_length=1, max_length=256)]] | None = None
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=MOST_CLASS_WEIGHT)]] | None = None

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if find_task(task) is None:
            known = list(known_tasks())
            raise ValueError(f"there is no task {task!r} in {', '.join(known)}{near(task, known)}")
        return task

    @field_validator("labels")
    @classmethod
    def _two_labels(cls, labels: list[str]) -> list[str]:
        if 0 < len(labels) < _LEAST_LABELS:
            raise ValueError("should have at least two")
        return labels

    @model_validator(mode="after")
    def _task_has_what_it_needs(self) -> ModelSection:
        task = task_named(self.task)
        if self.verbaliser and not self.labels:
            raise ValueError("labels are missing, which the verbaliser has words for")
        for key in MODEL_KEYS:
            if key not in task.keys and getattr(self, key) not in (None, False, [], "model"):
                said = f'{key} = "{self.pooling}"' if key == "pooling" else key
                if "task" in self.model_fields_set:
                    raise ValueError(f"{self.task} has no {said}; leave it out")
                owners = " or ".join(f'"{each.name}"' for each in all_tasks() if key in each.keys)
                raise ValueError(f"{said} is for task = {owners}; leave it out")
        if self.head == "class-means" and not task.is_class:
            raise ValueError(f'{self.task} has no head = "class-means"; leave it out')
        if self.max_tokens < task.least_tokens:
            raise ValueError(task.tokens_needed)
        return self

    @model_validator(mode="after")
    def _unique_labels(self) -> ModelSection:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is given twice")
        return self

    def resolved_source(self, base_folder: Path) -> str:
        """Return the source to load: an existing path relative to ``base_folder``, the job file's, else a hub id."""
        local = base_folder / self.source
        return str(local) if local.exists() else self.source

    @property
    def words(self) -> list[str] | None:
        """The verbaliser's words in the order of the labels."""
        return None if self.verbaliser is None else [self.verbaliser[label] for label in self.labels]

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_place(cls, prompt: str | None) -> str | None:
        if prompt is not None and prompt.count(PLACEHOLDER) != 1:
            raise ValueError(f"must hold {PLACEHOLDER} once")
        return prompt

    @model_validator(mode="after")
    def _prompt_and_words_suit_the_head(self) -> ModelSection:
        if self.pooling != "model" and (self.prompt or self.verbaliser):
            raise ValueError('a prompt or verbaliser needs pooling = "model"')
        if self.verbaliser is None:
            return self
        if missing := [label for label in self.labels if label not in self.verbaliser]:
            raise ValueError(f"the verbaliser has no word for the label {missing[0]!r}")
        if unknown := [label for label in self.verbaliser if label not in self.labels]:
            raise ValueError(f"the verbaliser has a word for {unknown[0]!r}, which is no label")
        if self.head != "zeros":
            raise ValueError('the verbaliser says how the head begins; set head = "zeros"')
        return self

    @property
    def weights_of_labels(self) -> tuple[float, ...]:
        """The class weights in the order of the labels, none without any; :func:`read_job` resolves balanced ones."""
        assert self.class_weights != "balanced", "a job is read with its held-out rows"
        return tuple(self.class_weights[label] for label in self.labels) if self.class_weights else ()

    @model_validator(mode="after")
    def _weights_are_of_labels(self) -> ModelSection:
        if isinstance(self.class_weights, dict) and self.labels and set(self.class_weights) != set(self.labels):
            other = min(set(self.class_weights) ^ set(self.labels))
            raise ValueError(f"class_weights and labels differ in {other!r}; give each label one weight")
        return self

    @model_validator(mode="after")
    def _class_means_have_features(self) -> ModelSection:
        if self.head == "class-means" and self.one_block:
            raise ValueError('head = "class-means" needs the head in a block of its own; leave out one_block')
        return self


class DevicesSection(_Section):
    """The devices that take part, by what they report of themselves, and how often they do.

    A device needs ``min_examples`` local rows, ``min_memory_mb`` MiB of memory and all ``capabilities``. It gets
    ``per_day`` assignments of all jobs a day (UTC) at most. 0 sets no bound.
    """

    min_examples: int = Field(default=0, ge=0)
    min_memory_mb: int = Field(default=0, ge=0)
    capabilities: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default=[], max_length=32)
    per_day: int = Field(default=0, ge=0)


class HeldOutSection(_Section):
    """The coordinator's held-out rows, which no device sees: CSV, JSONL or Parquet; questions also in SQuAD's format.

    The second texts of pairs are in the ``pair_column``; without one pairs are found by the usual names of their
    columns. Those of questions have fixed names, see ``fwdllm_client.tasks.question_answering.QuestionSource``. With
    ``skip_incomplete`` rows without a text, a label or a completion are skipped. The share ``validation`` of the rows,
    drawn from all over the file, chooses the version that is exported; accuracies are those of the other rows. From the
    class means of the share ``start``, other rows again, a new linear head starts; nothing is evaluated on them.
    """

    file: str
    text_column: str = "text"
    label_column: str = "label"
    pair_column: str | None = None
    skip_incomplete: bool = False
    validation: float = Field(default=0.0, ge=0, lt=1)
    start: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _rows_are_left(self) -> HeldOutSection:
        if self.validation + self.start >= 1:
            raise ValueError("validation and start leave no rows to report on; lower one of them")
        return self


class OptimizerSection(_Section):
    """The coordinator's optimiser; learning rates are the blocks' own, scaled by the schedule over ``rounds.count``.

    A step takes off the share ``weight_decay`` of the weights, times its learning rate.
    """

    kind: OptimizerKind = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"


class PerturbationSection(_Section):
    """How θ is perturbed.

    It is moved by ε = max(``epsilon``, ``relative`` · RMS of the block's weights) along directions of a
    ``distribution``; the scalar is the ``difference`` of losses over that, to θ itself or to the opposite side. With a
    ``linearised_loss`` the loss is taken by its slopes at θ where a model has them, which those that generate with side
    modules do.
    """

    distribution: Distribution = "rademacher"
    difference: Literal["one-sided", "central"] = "one-sided"
    epsilon: float = Field(default=1e-3, gt=0)
    relative: float = Field(default=0.01, ge=0)
    linearised_loss: bool = True

    def epsilon_at(self, weights: Float32Vector) -> float:
        """ε for a block with these weights, float32 ``[block size]``."""
        return step_length(weights, self.epsilon, self.relative)


class RoundsSection(_Section):
    """The rounds' number and bounds; times are seconds.

    A round waits for ``min_devices``, then for more until ``max_devices`` or all of the last round are here, or for
    ``gather_s``; they have ``accept_s`` to fetch their assignment and ``deadline_s`` to report. At the deadline the
    round commits if ``min_fraction`` of the directions are in, else it is abandoned. ``over_assign`` hands out more
    directions than are waited for, since devices vanish (``auto``: as many as make up for those of the last rounds); an
    assignment without news for ``assignment_s`` is given to others. ``evaluate_every`` and ``federated_evaluate_every``
    count rounds; 0 is never (the last round is always evaluated on held-out rows). Where a block's ``directions`` or
    ``batch_size`` are ``auto``, a device spends at most ``passes_budget`` example-passes on its directions and sends at
    most ``bytes_budget`` bytes of scalars, in one round. With a ``patience`` above 0 the job
    ends once that many rounds have brought no lower loss on the validation rows.
    """

    count: int = Field(default=50, ge=1, le=MOST_ROUNDS)
    min_devices: int = Field(default=1, ge=1)
    max_devices: int = Field(default=100, ge=1)
    gather_s: float = Field(default=5.0, ge=0)
    accept_s: float = Field(default=60.0, gt=0)
    deadline_s: float = Field(default=600.0, gt=0)
    assignment_s: float = Field(default=120.0, gt=0)
    min_fraction: float = Field(default=0.5, gt=0, le=1)
    over_assign: float | Literal["auto"] = 1.0
    evaluate_every: int = Field(default=5, ge=0)
    federated_evaluate_every: int = Field(default=0, ge=0)
    max_abandoned: int = Field(default=10, ge=0)
    passes_budget: float = Field(default=200.0, gt=0)
    bytes_budget: int = Field(default=1 << 16, ge=2)
    patience: int = Field(default=0, ge=0)

    @field_validator("over_assign")
    @classmethod
    def _hands_out_enough(cls, factor: float | Literal["auto"]) -> float | Literal["auto"]:
        # A bound of the type itself would be told by the name of a union's branch.
        if factor != "auto" and not 1 <= factor <= MOST_OVER_ASSIGNED:
            raise ValueError(f'should be greater than or equal to 1 and at most {MOST_OVER_ASSIGNED:g}, or "auto"')
        return factor

    def over_assigned(self, dropout_rate: float) -> float:
        """Return the directions to assign for each that is waited for; ``dropout_rate`` is in [0, 1]."""
        if self.over_assign == "auto":
            return MOST_OVER_ASSIGNED if dropout_rate >= 1 else min(1 / (1 - dropout_rate), MOST_OVER_ASSIGNED)
        return self.over_assign

    def extended(self, more: int) -> RoundsSection:
        """Return the same rounds and ``more``.

        :raises BadInputError: they are too many.
        """
        return validate({**self.model_dump(), "count": self.count + more}, RoundsSection, "[rounds]")

    def evaluates(self, version: int) -> bool:
        """Whether the coordinator evaluates this version on its held-out rows."""
        scheduled = self.evaluate_every > 0 and version % self.evaluate_every == 0
        return scheduled or version in (0, self.count)

    @model_validator(mode="after")
    def _devices_in_order(self) -> RoundsSection:
        if self.max_devices < self.min_devices:
            raise ValueError("max_devices is below min_devices")
        return self


class TrackingSection(_Section):
    """The experiment trackers ``to`` which the evaluations go too: ``tensorboard`` (``fwdllm[tensorboard]``)."""

    to: list[Literal["tensorboard"]] = Field(default=[], max_length=1)


class RobustSection(_Section):
    """Robust aggregation: the bound on what devices that report wrong scalars can do.

    A scalar is clipped to ``clip`` times the running scale of its block, the median magnitude of the scalars of the
    last rounds. Devices that contradict the others round after round are excluded. 0 turns both off.
    """

    clip: float = Field(default=3.0, ge=0, le=1e6)


class PrivacySection(_Section):
    """What the coordinator, and whoever has the model, may learn of a device.

    With ``secure_aggregation`` the coordinator learns only the sum over a round's devices. All devices then measure the
    same directions, as many as each would measure with ``directions = "auto"``.

    With an ``epsilon`` the run is (``epsilon``, ``delta``) differentially private for each ``unit``: what a device has
    estimated of the gradient in a round is shortened to the norm ``clip``, and noise is added to the sum, by devices in
    shares with ``secure_aggregation`` and by the coordinator without. The noise is such that the budget holds for
    ``rounds_per_device`` rounds that a device takes part in, 0 for all; a device that had as many takes part no more.
    """

    secure_aggregation: bool = False
    epsilon: float | None = Field(default=None, gt=0, le=1e3)
    delta: float | None = Field(default=None, gt=0, lt=1)
    clip: float | None = Field(default=None, gt=0, le=1e6)
    unit: Literal["device"] = "device"
    rounds_per_device: int = Field(default=0, ge=0, le=MOST_ROUNDS)

    @property
    def budget(self) -> Budget | None:
        """What a device may lose in all; None without differential privacy."""
        if self.epsilon is None or self.delta is None or self.clip is None:
            return None
        return Budget(self.epsilon, self.delta, self.clip, self.rounds_per_device)

    @model_validator(mode="after")
    def _a_budget_is_whole(self) -> PrivacySection:
        given = [name for name in ("epsilon", "delta", "clip") if getattr(self, name) is not None]
        missing = [name for name in ("epsilon", "delta", "clip") if name not in given]
        if missing and (given or self.rounds_per_device):
            raise ValueError(f"{missing[0]} is missing; differential privacy needs epsilon, delta and clip")
        return self


class SamplingSection(_Section):
    """Discriminative perturbation sampling: of 1 / ``keep`` times as many candidates the nearest to a reference.

    The reference is the last committed ``gradient`` or the optimiser's ``momentum``; nearness is the ``signed`` or
    ``absolute`` cosine, of the whole ``vector`` or averaged over its ``tensor``s; ``every`` n-th round samples.
    """

    keep: float = Field(default=0.1, ge=1 / 256, le=1)
    cosine: Literal["signed", "absolute"] = "signed"
    scope: Literal["vector", "tensor"] = "vector"
    reference: Literal["gradient", "momentum"] = "gradient"
    every: int = Field(default=1, ge=1)


class BlockSection(_Section):
    """The directions of one block of θ.

    A round begins with ``directions`` and goes on in steps of as many, up to ``max_directions``, while the variance of
    the estimate is above ``variance_threshold``: ``relative`` is the variance over the squared gradient, ``absolute``
    the paper's difference of two halves, in units of the gradient squared; ``pacing_tensor`` restricts the statistic to
    one tensor. The block takes part from round ``first_round`` on, every ``every`` rounds. Each direction is measured
    by ``devices_per_direction`` devices, and from three on counts with the median of what they say.

    With ``directions = "auto"`` each device measures as many as ``[rounds]`` has budgets for, orthogonal ones where
    that is about as many as the block has coordinates; with ``batch_size = "auto"`` on as many of its rows as that
    leaves.
    """

    directions: int | Literal["auto"]
    max_directions: int = Field(default=0, ge=0, le=MAX_DIRECTIONS)
    batch_size: int | Literal["auto"] = 16
    learning_rate: float = Field(gt=0)
    pacing: Literal["relative", "absolute"] = "relative"
    pacing_tensor: str = ""
    variance_threshold: float = Field(default=float("inf"), gt=0, allow_inf_nan=True)
    sampling: SamplingSection | None = None
    first_round: int = Field(default=1, ge=1)
    every: int = Field(default=1, ge=1)
    devices_per_direction: int = Field(default=1, ge=1, le=16)

    @field_validator("devices_per_direction")
    @classmethod
    def _a_majority_is_possible(cls, devices: int) -> int:
        if devices == 2:
            raise ValueError("two devices cannot outvote one; use 1, or 3 and more")
        return devices

    @field_validator("directions", "batch_size")
    @classmethod
    def _within_bounds(cls, number: int | Literal["auto"]) -> int | Literal["auto"]:
        # A bound of the type itself would be told by the name of a union's branch.
        if number != "auto" and not 1 <= number <= MAX_DIRECTIONS:
            raise ValueError(f'should be greater than or equal to 1 and at most {MAX_DIRECTIONS}, or "auto"')
        return number

    @model_validator(mode="after")
    def _nothing_else_decides(self) -> BlockSection:
        if self.directions != "auto":
            return self
        decided = {
            "max_directions": self.max_directions > 0,
            "variance_threshold": self.variance_threshold < float("inf"),
            "sampling": self.sampling is not None,
            "devices_per_direction": self.devices_per_direction > 1,
        }
        if given := [name for name, is_given in decided.items() if is_given]:
            raise ValueError(f'{given[0]} needs a number of directions, not "auto"')
        return self

    @property
    def most_directions(self) -> int:
        """Of a round; 0 where they follow from budgets."""
        return 0 if self.directions == "auto" else max(self.directions, self.max_directions)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> BlockSection:
        if self.directions != "auto" and 0 < self.max_directions < self.directions:
            raise ValueError("max_directions is below directions")
        return self

    @model_validator(mode="after")
    def _last_round_has_a_gradient(self) -> BlockSection:
        if self.sampling is not None and self.sampling.reference == "gradient" and self.every > 1:
            raise ValueError('sampling by the last round\'s gradient needs every = 1; use reference = "momentum"')
        return self


class JobSpec(_Section):
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
