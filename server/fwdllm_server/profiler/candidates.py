"""The candidates of a profile: PEFT methods with their settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fwdllm_server.config.peft_spec import LAYER_METHODS, METHOD_KEYS, PeftSpec

_TOP_LAYERS = [-2, -1]
HEAD_ALONE = PeftSpec(method="lora-fa", layers=[])


class CandidateFile(BaseModel):
    """``[[candidate]]`` tables, each with the keys of a job's ``[peft]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidate: list[PeftSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_candidate_twice(self) -> CandidateFile:
        name, count = Counter(map(name_of, self.candidate)).most_common(1)[0]
        if count > 1:
            raise ValueError(f"the candidate {name!r} is given {count} times")
        return self


def default_candidates() -> Sequence[PeftSpec]:
    """Return the head alone, side modules, and every other method in the top two layers and in all layers."""
    in_layers = [PeftSpec(method=method, layers=layers) for method in LAYER_METHODS for layers in (_TOP_LAYERS, None)]
    return [HEAD_ALONE, PeftSpec(method="side"), *in_layers]


def name_of(spec: PeftSpec) -> str:
    """Return a short unique name of the settings, such as ``lora, rank 4, top 2 layers``."""
    if spec.layers == []:
        return "head alone"
    if spec.method == "side":
        return spec.method
    settings = spec.model_dump(exclude_defaults=True, exclude={"method", "rank", "layers"})
    rank = [f"rank {spec.rank}"] if "rank" in METHOD_KEYS[spec.method] else []
    others = [f"{key} {_words(value)}" for key, value in settings.items()]
    return ", ".join([spec.method, *rank, *others, _layers(spec.layers)])


def _layers(layers: Sequence[int] | None) -> str:
    if layers is None:
        return "all layers"
    if sorted(layers) == list(range(-len(layers), 0)):
        return f"top {len(layers)} layers" if len(layers) > 1 else "top layer"
    return f"layers {_words(layers)}"


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
