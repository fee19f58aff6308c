"""The bits and hashes that every machine and every later version must reproduce.

``golden.json`` was written by ``golden()`` below at generator version 1. It changes only together with
``GENERATOR_VERSION``, by hand, because devices in the field would no longer agree with the coordinator:
``python -c "import json; from common.test_golden import golden; print(json.dumps(golden(), indent=2))"`` in ``tests``.
"""

import json
from pathlib import Path

import common.reference as reference
import pytest
from common.runs import KINDS, golden_digest

from fwdllm_common.directions import direction_bits
from fwdllm_common.protocol import GENERATOR_VERSION

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
ROUNDS = 4
SLICES = (
    (0, 0, 0, 64),
    (0, 0, 192, 320),
    (1, 2, 5, 38),
    (2, 1, 5, 38),
    (2**64 - 1, 2**64 - 1, 1000, 1100),
    (0x0123456789ABCDEF, 42, 2**32 + 1, 2**32 + 90),
)


def golden():
    return {
        "generator_version": GENERATOR_VERSION,
        "bits": [
            {"run_key": key, "seed": seed, "start": start, "stop": stop, "bits": text(key, seed, start, stop)}
            for key, seed, start, stop in SLICES
        ],
        "theta": {kind: [golden_digest(kind, rounds) for rounds in range(1, ROUNDS + 1)] for kind in KINDS},
    }


def text(*arguments):
    return "".join(str(bit) for bit in direction_bits(*arguments))


def test_generator_version_is_the_golden_one():
    assert GOLDEN["generator_version"] == GENERATOR_VERSION


@pytest.mark.parametrize("case", GOLDEN["bits"], ids=lambda case: f"{case['seed']}@{case['start']}")
def test_directions_are_the_golden_ones(case):
    assert text(case["run_key"], case["seed"], case["start"], case["stop"]) == case["bits"]


@pytest.mark.parametrize("case", GOLDEN["bits"], ids=lambda case: f"{case['seed']}@{case['start']}")
def test_golden_directions_are_those_of_the_specification(case):
    bits = reference.direction_bits(case["run_key"], case["seed"], case["start"], case["stop"])
    assert "".join(map(str, bits)) == case["bits"]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_is_the_golden_one_after_every_round(kind):
    assert [golden_digest(kind, rounds) for rounds in range(1, ROUNDS + 1)] == GOLDEN["theta"][kind]


def test_golden_file_has_every_case():
    assert golden().keys() == GOLDEN.keys()
    assert [(case["run_key"], case["seed"], case["start"], case["stop"]) for case in GOLDEN["bits"]] == list(SLICES)
    assert set(GOLDEN["theta"]) == set(KINDS)
