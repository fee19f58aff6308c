"""The PEFT method of a job and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fwdllm_server.config.toml_model import near

MethodName = Literal["lora", "lora-fa", "lora-xs", "adapter", "bitfit", "ia3", "side"]
BasesKind = Literal["weights", "activations"]

INSTALLED_METHODS = "fwdllm.peft_methods"
"""The entry points by which other packages add methods, each a ``fwdllm_server.model.peft.method.Method``."""

_LORA_KEYS = {"rank", "alpha", "bases"}
# The keys that a method reads in addition to targets and layers.
METHOD_KEYS: Mapping[str, set[str]] = {
    "lora": _LORA_KEYS,
    "lora-fa": _LORA_KEYS,
    "lora-xs": _LORA_KEYS,
    "adapter": {"rank"},
    "bitfit": set(),
    "ia3": set(),
    "side": {"rank"},  # of a model that generates; JobSpec knows which it is
}
LAYER_METHODS = tuple(method for method in METHOD_KEYS if method != "side")
"""Those that change layers of the model, and so have targets and layers to be put in."""


class PeftSpec(BaseModel):
    """The trainable part of the model.

    ``lora`` trains A and B of every target, ``lora-fa`` B only, ``lora-xs`` a core between A and B; ``adapter`` adds
    bottlenecks of width ``rank``, ``bitfit`` trains the biases, ``ia3`` vectors that scale; ``side`` leaves
    the model alone and trains attention poolings of its hidden states beside it, or in a model that generates a network
    that reads and corrects ``rank`` principal directions of its states. ``bases`` starts A (and for
    ``lora-xs`` B) from the target's ``weights`` or from its ``activations`` on unlabelled texts; None means a random A,
    for ``lora-xs`` the weights. ``targets`` are names of modules, by their last component or full path, or the
    roles ``query``, ``key`` and ``value``, which every architecture calls differently; none means the
    method's choice for the architecture. ``layers`` restricts them to some transformer layers, negative numbers
    counting from the top; an empty list leaves only the head to train. A ``method`` may also be one that an installed
    package brings, and reads what it likes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = "lora"
    rank: int = Field(default=4, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    bases: BasesKind | None = None
    targets: list[str] = []
    layers: list[int] | None = None

    @property
    def ignored_keys(self) -> frozenset[str]:
        """The keys that have no effect with the method."""
        ignored = _LORA_KEYS - METHOD_KEYS.get(self.method, _LORA_KEYS)
        return frozenset(ignored if self.method != "side" else ignored | {"targets", "layers"})

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> PeftSpec:
        if self.method not in METHOD_KEYS:
            installed = entry_points(group=INSTALLED_METHODS).names
            if self.method not in installed:
                known = [*METHOD_KEYS, *sorted(installed)]
                raise ValueError(f"there is no method {self.method!r} in {', '.join(known)}{near(self.method, known)}")
            return self
        for key in sorted(self.model_fields_set & self.ignored_keys):
            raise ValueError(f"{key} does nothing with the method {self.method!r}; leave it out")
        return self
