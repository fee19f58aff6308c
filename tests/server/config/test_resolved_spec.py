"""What is stored of a submitted job reads back as the same specification."""

import json

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import METHOD_KEYS
from fwdllm_server.config.presets import NAMES
from fwdllm_server.config.resolved_spec import dump_resolved, load_resolved
from fwdllm_server.config.toml_model import parse_toml

CLASSES = '[model]\nsource = "somewhere"\nlabels = ["x", "y"]\n'
QUESTIONS = '[model]\nsource = "somewhere"\ntask = "question-answering"\n'


def spec(model: str = CLASSES, top: str = "", more: str = "") -> JobSpec:
    file = f'{top}[job]\nname = "a"\n{model}[held_out]\nfile = "held_out.csv"\n{more}'
    return parse_toml(file, JobSpec, "job.toml")


COMPLETIONS = '[model]\nsource = "somewhere"\ntask = "causal-lm"\n'
# Side modules are for classification, and others for models that generate.
_OTHERS = [name for name in NAMES if not name.endswith("side")]
PRESETS = [
    *((name, model) for name in _OTHERS for model in (CLASSES, QUESTIONS)),
    ("side", CLASSES),
    ("causal-lm-side", COMPLETIONS),
]


@pytest.mark.parametrize(("preset", "model"), PRESETS)
def test_every_preset_reads_back_as_it_was(preset: str, model: str) -> None:
    named = spec(model, f'preset = "{preset}"\n')
    read = load_resolved(dump_resolved(named), "a")

    assert read == named.model_copy(update={"preset": None})


@pytest.mark.parametrize("method", METHOD_KEYS)
def test_every_peft_method_reads_back_as_it_was(method: str) -> None:
    chosen = spec(more=f'[peft]\nmethod = "{method}"\n')

    assert load_resolved(dump_resolved(chosen), "a") == chosen


def test_every_default_is_written_out() -> None:
    stored = json.loads(dump_resolved(spec()))

    for section in ("model", "devices", "optimizer", "perturbation", "rounds", "robust"):
        assert stored[section].keys() == JobSpec.model_fields[section].annotation.model_fields.keys()  # type: ignore[union-attr]
    assert stored["rounds"]["deadline_s"] == spec().rounds.deadline_s
    assert "preset" not in stored


@pytest.mark.parametrize("text", ["{", "[]", '{"job": {}}'])
def test_a_damaged_one_is_refused_by_the_jobs_name(text: str) -> None:
    with pytest.raises(BadInputError, match=r"^tiny: "):
        load_resolved(text, "tiny")
