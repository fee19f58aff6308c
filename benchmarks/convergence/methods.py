"""What is run: one line for each recipe, where it runs, with how many seeds, and up to how many example-passes.

A :class:`Method` is a preset of ``fwdllm_server.config.presets`` with changes, run by the simulator.
A :class:`Reference` is centralised or uses backpropagation, run by PyTorch or numpy.
Changes are keys of the job file with dots; None removes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Changes: TypeAlias = Mapping[str, Any]

BBC, AG, YELP, TWEETS = "bbc_news/iid", "ag_news/iid", "yelp_sentences/iid", "twitter_airline/iid"
SKEWED = ("ag_news/dirichlet-1", "ag_news/dirichlet-0.1")
BY_USER = "twitter_airline/user"
CLINC, BY_DOMAIN, SMS = "clinc150/iid", "clinc150/user", "sms_spam/iid"
ALL = (BBC, AG, YELP, TWEETS, CLINC, SMS)


@dataclass(frozen=True)
class Method:
    """``preset`` with ``changes``, and for some tasks more of them ``on`` top.

    ``where`` it runs is task/population. A run pauses at ``max_passes`` example-passes of its task, if there are any.
    """

    name: str
    preset: str
    changes: Changes = field(default_factory=dict)
    where: tuple[str, ...] = (AG,)
    seeds: int = 3
    max_passes: Mapping[str, float] = field(default_factory=dict)
    on: Mapping[str, Changes] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """What forward gradients are held against; ``settings`` are those of its kind in :mod:`settings`."""

    name: str
    kind: Literal["ridge", "logistic", "sgd-probe", "fedsgd", "fedavg"]
    settings: Changes = field(default_factory=dict)
    where: tuple[str, ...] = ALL
    seeds: int = 3


_PAPER = {"ag_news": 2e6, "bbc_news": 3e5}
_ABLATION = {"ag_news": 3e5}
_TOP = {"layers": (-2, -1)}
_WHOLE = {"layers": None}
_AS_DEFAULT = {"pooling": "layer-means"}

REFERENCES = (
    Reference("probe-ridge", "ridge", where=(*ALL, BY_USER), seeds=1),
    Reference("probe-logistic", "logistic", where=(*ALL, BY_USER), seeds=1),
    Reference("probe-ridge-layer-means", "ridge", _AS_DEFAULT, where=(*ALL, BY_USER), seeds=1),
    Reference("probe-logistic-layer-means", "logistic", _AS_DEFAULT, where=(*ALL, BY_USER), seeds=1),
    Reference("probe-sgd", "sgd-probe"),
    Reference("backprop-lora-fedsgd", "fedsgd", _TOP, where=(*ALL, *SKEWED, BY_USER)),
    Reference("backprop-lora-fedavg", "fedavg", _TOP, where=(*ALL, *SKEWED, BY_USER)),
    Reference("backprop-lora-all-fedsgd", "fedsgd", _WHOLE, where=(AG, YELP)),
)

# Adam's rate on all of θ at once was not tuned; the paper's own is SGD's.
_ADAM = {"optimizer.kind": "adam", "blocks.peft.learning_rate": 0.001}
_TOP_ADAPTERS = {"peft.method": "adapter", "peft.rank": 24, "peft.layers": [-2, -1]}
_HEAD_BLOCK = {
    "model.one_block": False,
    "blocks.head.directions": 2048,
    "blocks.head.batch_size": 64,
    "blocks.head.learning_rate": 0.5,
}

HEADLINE = (
    Method("default", "default", where=(*ALL, *SKEWED, BY_USER, BY_DOMAIN)),
    # The same head from few directions.
    Method("layer-means-4096", "layer-means-4096", where=(*ALL, *SKEWED, BY_USER)),
    Method("mezo", "mezo", where=(AG, BBC), max_passes={"ag_news": 3e5, "bbc_news": 1e5}),
    Method("fwdllm-paper", "fwdllm-paper", where=(AG, BBC), seeds=1, max_passes=_PAPER),
    Method(
        "fwdllm-paper-tuned",
        "fwdllm-paper",
        {"blocks.peft.learning_rate": 0.05},
        where=(AG, BBC),
        seeds=1,
        max_passes=_PAPER,
    ),
)

ABLATIONS = (
    Method("paper-with-zero-head", "fwdllm-paper", {"model.head": "zeros"}, seeds=1, max_passes=_ABLATION),
    Method(
        "paper-with-one-sided",
        "fwdllm-paper",
        {"perturbation.difference": "one-sided", "perturbation.distribution": "rademacher"},
        seeds=1,
        max_passes=_ABLATION,
    ),
    Method("paper-without-sampling", "fwdllm-paper", {"blocks.peft.sampling.keep": 1.0}, seeds=1, max_passes=_ABLATION),
    Method("paper-without-pacing", "fwdllm-paper", {"blocks.peft.max_directions": 0}, seeds=1, max_passes=_ABLATION),
    Method("paper-with-adam", "fwdllm-paper", _ADAM, seeds=1, max_passes=_ABLATION),
    Method("paper-with-top-layers", "fwdllm-paper", _TOP_ADAPTERS, seeds=1, max_passes=_ABLATION),
    Method("paper-with-head-block", "fwdllm-paper", _HEAD_BLOCK, seeds=1, max_passes=_ABLATION),
    Method("default-without-adam", "default", {"optimizer.kind": "sgd", "blocks.head.learning_rate": 0.5}),
    Method("default-without-layer-means", "default", {"model.pooling": "mean"}, where=(AG, YELP)),
    Method("default-without-schedule", "default", {"optimizer.schedule": "constant"}),
    Method("default-int8", "default", {"model.precision": "int8"}),
    Method("default-int4", "default", {"model.precision": "int4"}),
    Method("default-without-one-sided", "default", {"perturbation.difference": "central"}),
    Method("default-with-sampling", "layer-means-4096", {"blocks.head.sampling.reference": "momentum"}),
    Method("default-with-class-means", "default", {"model.head": "class-means"}),
    Method("default-with-upper-layers", "upper-layers", where=(AG, YELP), seeds=1, max_passes=_ABLATION),
    # Does the accuracy stay?
    Method("default-500-rounds", "default", {"rounds.count": 500}, seeds=1),
)

# Those that take minutes before those that take hours.
METHODS: Mapping[str, Method | Reference] = {row.name: row for row in (*REFERENCES, *HEADLINE, *ABLATIONS)}
