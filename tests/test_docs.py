"""What the documents list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from fwdllm_common import errors
from fwdllm_server.job import BlockSection, JobSpec, SamplingSection

DOCS = Path(__file__).parents[1] / "docs"


def keys_of(model: type[BaseModel]) -> set[str]:
    sections = [field.annotation for field in model.model_fields.values()]
    return {key for section in sections if hasattr(section, "model_fields") for key in section.model_fields}


def test_every_key_of_the_job_file_is_documented() -> None:
    documented = set(re.findall(r"`(?:\[\w+\] )?(\w+)`", (DOCS / "job-file.md").read_text()))
    assert keys_of(JobSpec) | {*BlockSection.model_fields, *SamplingSection.model_fields} <= documented


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)}
    used = {error.exit_code for error in vars(errors).values() if isinstance(error, type)}
    assert used | {0, 130} == documented


def test_every_field_of_the_wire_contract_is_commented() -> None:
    lines = [line for path in (DOCS.parent / "protos").rglob("*.proto") for line in path.read_text().splitlines()]
    fields = [line for line in lines if re.match(r"\s+(repeated )?[\w.]+ \w+ = \d+;", line)]
    assert len(fields) > 100
    assert [line for line in fields if "//" not in line] == []
