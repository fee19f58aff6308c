"""Format a candidate as lines of a job file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fwdllm_server.config.peft_spec import PeftSpec


def settings_of(spec: PeftSpec) -> Mapping[str, Any]:
    """Return the method, and all keys that differ from their defaults."""
    return {"method": spec.method} | spec.model_dump(exclude_defaults=True)


def peft_block(settings: Mapping[str, Any]) -> str:
    """Return the ``[peft]`` section of a job file with these settings."""
    # JSON strings, numbers and lists are also valid TOML.
    return "\n".join(["[peft]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]) + "\n"
