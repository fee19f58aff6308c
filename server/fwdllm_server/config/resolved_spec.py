"""The resolved specification of a job, as it is stored: its preset expanded and every default written out.

A job that runs keeps it, so a later version of fwdllm with another preset or default does not change the job.
"""

from __future__ import annotations

import json

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import validate


def dump_resolved(spec: JobSpec) -> str:
    """Return ``spec`` as JSON (with ``Infinity``, as Python's :mod:`json` writes it)."""
    # The preset's name goes, or it would be expanded again. Keys that the PEFT method ignores are an error in a job.
    return json.dumps(spec.model_dump(exclude={"preset": True, "peft": set(spec.ignored_peft_keys)}))


def load_resolved(text: str, where: str) -> JobSpec:
    """Return the specification that :func:`dump_resolved` wrote; ``where`` names the job in messages.

    :raises BadInputError: the text is damaged, or of a newer version of fwdllm.
    """
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise BadInputError(f"{where}: the stored specification is damaged; restore the database from a backup")
    return validate(data, JobSpec, where)
