"""Targets: modules by name, by path or by role."""

from __future__ import annotations

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.model.peft.targets import matching

BERT = ["l.0.attention.self.query", "l.0.attention.self.key", "l.0.attention.output.dense"]
LLAMA = ["l.0.self_attn.q_proj", "l.0.self_attn.k_proj", "l.0.mlp.up_proj"]


@pytest.mark.parametrize(
    ("modules", "expected"), [(BERT, BERT[:2]), (LLAMA, LLAMA[:2]), (["h.0.c_attn"], ["h.0.c_attn"])]
)
def test_a_role_means_the_projection_of_every_architecture(modules: list[str], expected: list[str]) -> None:
    assert matching(modules, ["query", "key"]) == expected


def test_a_name_means_only_the_module_of_that_name() -> None:
    assert matching(LLAMA, ["k_proj"]) == LLAMA[1:2]
    assert matching(BERT, ["output.dense"]) == BERT[2:]


def test_a_role_that_the_model_does_not_have() -> None:
    with pytest.raises(BadInputError, match="no module 'value'"):
        matching(LLAMA, ["value"])
