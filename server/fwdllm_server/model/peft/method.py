"""What a PEFT method is given and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from peft import PeftModel
from torch import nn

from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.model.peft.sample import TextSample


@dataclass(frozen=True)
class Request:
    """A method applied to a model.

    ``base`` is the frozen classifier, ``saved`` the paths of the modules that the adapter file holds whole (the head,
    and what the checkpoint lacks), ``sample`` texts for methods that look at activations.
    """

    base: nn.Module
    spec: PeftSpec
    saved: Sequence[str]
    sample: TextSample | None


class Wrapped(NamedTuple):
    """The base wrapped by PEFT, and the parameters in it that the method trains."""

    model: PeftModel
    trained: Sequence[nn.Parameter]


Method = Callable[[Request], Wrapped]
