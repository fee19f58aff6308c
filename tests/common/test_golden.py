"""The bits and hashes that every machine and every later version must reproduce.

``golden.json`` was written by ``golden()`` below at generator version 1. What it holds changes only together with
``GENERATOR_VERSION``, by hand, because devices in the field would no longer agree with the coordinator; what is new may
be added: ``python -c "import json; from common.test_golden import golden; print(json.dumps(golden(), indent=2))"`` in
``tests``.
"""

import json
from importlib.resources import files
from pathlib import Path

import common.reference as reference
import pytest
from common.runs import KINDS, golden_digest, round_of

from fwdllm_common.directions import Directions, direction_bits
from fwdllm_common.golden import disagreements
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
        "gaussian": [
            {"run_key": key, "seed": seed, "start": start, "stop": stop, "quarters": quarters(key, seed, start, stop)}
            for key, seed, start, stop in SLICES
        ],
        "theta": {kind: digests(kind) for kind in KINDS},
        "theta_gaussian": {kind: digests(kind, "gaussian") for kind in KINDS},
        "theta_orthogonal": {kind: digests(kind, generator=2) for kind in KINDS},
    }


def text(*arguments):
    return "".join(str(bit) for bit in direction_bits(*arguments))


def quarters(run_key, seed, start, stop):
    return " ".join(map(str, Directions(run_key, "gaussian").integers(seed, start, stop)))


def digests(kind, distribution="rademacher", generator=1):
    return [golden_digest(kind, rounds, distribution, generator) for rounds in range(1, ROUNDS + 1)]


def place(case):
    return case["run_key"], case["seed"], case["start"], case["stop"]


def name(case):
    return f"{case['seed']}@{case['start']}"


def test_generator_version_is_the_golden_one():
    assert GOLDEN["generator_version"] == GENERATOR_VERSION


@pytest.mark.parametrize("case", GOLDEN["bits"], ids=name)
def test_directions_are_the_golden_ones(case):
    assert text(*place(case)) == case["bits"]


@pytest.mark.parametrize("case", GOLDEN["bits"], ids=name)
def test_golden_directions_are_those_of_the_specification(case):
    assert "".join(map(str, reference.direction_bits(*place(case)))) == case["bits"]


@pytest.mark.parametrize("case", GOLDEN["gaussian"], ids=name)
def test_gaussian_directions_are_the_golden_ones(case):
    assert quarters(*place(case)) == case["quarters"]


@pytest.mark.parametrize("case", GOLDEN["gaussian"], ids=name)
def test_golden_gaussian_directions_are_those_of_the_specification(case):
    assert " ".join(map(str, reference.integers("gaussian", *place(case)))) == case["quarters"]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_is_the_golden_one_after_every_round(kind):
    assert digests(kind) == GOLDEN["theta"][kind]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_of_gaussian_directions_is_the_golden_one_after_every_round(kind):
    assert digests(kind, "gaussian") == GOLDEN["theta_gaussian"][kind]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_of_orthogonal_directions_with_weight_decay_is_the_golden_one_after_every_round(kind):
    assert digests(kind, generator=2) == GOLDEN["theta_orthogonal"][kind]


def test_golden_file_has_every_case():
    assert golden().keys() == GOLDEN.keys()
    for distribution in ("bits", "gaussian"):
        assert [place(case) for case in GOLDEN[distribution]] == list(SLICES)
    assert set(GOLDEN["theta"]) == set(GOLDEN["theta_gaussian"]) == set(GOLDEN["theta_orthogonal"]) == set(KINDS)


def test_what_doctor_compares_with_is_the_golden_run():
    shipped = json.loads(files("fwdllm_common").joinpath("golden.json").read_text())
    assert [bytes.fromhex(entry) for entry in shipped["entries"]] == [
        round_of(version).to_bytes() for version in range(1, ROUNDS + 1)
    ]
    last = {(run["optimiser"], run["directions"]): run["theta_sha256"] for run in shipped["runs"]}
    assert last == {(kind, "rademacher"): GOLDEN["theta"][kind][-1] for kind in KINDS} | {
        (KINDS[0], "gaussian"): GOLDEN["theta_gaussian"][KINDS[0]][-1],
        ("adam", "orthogonal"): GOLDEN["theta_orthogonal"]["adam"][-1],
    }
    assert disagreements() == []
