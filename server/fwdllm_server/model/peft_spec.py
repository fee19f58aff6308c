"""What a job says about its PEFT method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PeftSpec(BaseModel):
    """The trainable part of the model.

    ``lora`` trains A and B of every target, ``lora-fa`` B only, with A at its random start. ``targets`` are names of
    linear modules, by their last component or full path; none means PEFT's choice for the architecture (the query and
    value projections). ``layers`` restricts them to some transformer layers, negative numbers counting from the top;
    an empty list leaves only the head to train.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["lora", "lora-fa"] = "lora"
    rank: int = Field(default=4, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    targets: list[str] = []
    layers: list[int] | None = None
