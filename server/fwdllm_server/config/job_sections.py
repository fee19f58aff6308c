"""The tables of a job file, each with the bounds of its keys; what they say together is in ``config/job.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fwdllm_common.directions import Distribution, step_length
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import MOST_CLASS_WEIGHT
from fwdllm_common.optimizers import OptimizerKind
from fwdllm_common.prompt import PLACEHOLDER
from fwdllm_common.protocol import MOST_PRIORITY
from fwdllm_common.task import CLASSIFICATION, find_task, known_tasks
from fwdllm_server.config.precision import Precision
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


class Section(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobSection(Section):
    """The job's ``name``, shown to people, and its ``seed``, which fixes initial PEFT weights and all directions.

    Of jobs that wait for the same devices, the one with the highest ``priority`` gets them.
    """

    name: Name
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    priority: int = Field(default=0, ge=-MOST_PRIORITY, le=MOST_PRIORITY)


class ModelSection(Section):
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


class DevicesSection(Section):
    """The devices that take part, by what they report of themselves, and how often they do.

    A device needs ``min_examples`` local rows, ``min_memory_mb`` MiB of memory and all ``capabilities``. It gets
    ``per_day`` assignments of all jobs a day (UTC) at most. 0 sets no bound.
    """

    min_examples: int = Field(default=0, ge=0)
    min_memory_mb: int = Field(default=0, ge=0)
    capabilities: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default=[], max_length=32)
    per_day: int = Field(default=0, ge=0)


class HeldOutSection(Section):
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


class OptimizerSection(Section):
    """The coordinator's optimiser; learning rates are the blocks' own, scaled by the schedule over ``rounds.count``.

    A step takes off the share ``weight_decay`` of the weights, times its learning rate.
    """

    kind: OptimizerKind = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"


class PerturbationSection(Section):
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


class RoundsSection(Section):
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


class TrackingSection(Section):
    """The experiment trackers ``to`` which the evaluations go too: ``tensorboard`` (``fwdllm[tensorboard]``)."""

    to: list[Literal["tensorboard"]] = Field(default=[], max_length=1)


class RobustSection(Section):
    """Robust aggregation: the bound on what devices that report wrong scalars can do.

    A scalar is clipped to ``clip`` times the running scale of its block, the median magnitude of the scalars of the
    last rounds. Devices that contradict the others round after round are excluded. 0 turns both off.
    """

    clip: float = Field(default=3.0, ge=0, le=1e6)


class PrivacySection(Section):
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


class SamplingSection(Section):
    """Discriminative perturbation sampling: of 1 / ``keep`` times as many candidates the nearest to a reference.

    The reference is the last committed ``gradient`` or the optimiser's ``momentum``; nearness is the ``signed`` or
    ``absolute`` cosine, of the whole ``vector`` or averaged over its ``tensor``s; ``every`` n-th round samples.
    """

    keep: float = Field(default=0.1, ge=1 / 256, le=1)
    cosine: Literal["signed", "absolute"] = "signed"
    scope: Literal["vector", "tensor"] = "vector"
    reference: Literal["gradient", "momentum"] = "gradient"
    every: int = Field(default=1, ge=1)


class BlockSection(Section):
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
