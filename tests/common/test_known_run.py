"""The bits and hashes that every machine and every later version must reproduce.

``known_run.json`` was written by ``known_answers()`` below at generator version 1. What it holds changes only together
with ``GENERATOR_VERSION``, by hand, because devices in the field would no longer agree with the coordinator; what is
new may be added: in ``tests``, print ``json.dumps(known_answers(), indent=2)``.
"""

import json
from importlib.resources import files
from pathlib import Path

import common.reference as reference
import pytest
from common.runs import KINDS, known_digest, round_of

from fwdllm_common.directions import Directions, direction_bits
from fwdllm_common.known_run import disagreements
from fwdllm_common.protocol import GENERATOR_VERSION

KNOWN = json.loads((Path(__file__).parent / "known_run.json").read_text())
ROUNDS = 4
SLICES = (
    (0, 0, 0, 64),
    (0, 0, 192, 320),
    (1, 2, 5, 38),
    (2, 1, 5, 38),
    (2**64 - 1, 2**64 - 1, 1000, 1100),
    (0x0123456789ABCDEF, 42, 2**32 + 1, 2**32 + 90),
)


def known_answers():
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
    return [known_digest(kind, rounds, distribution, generator) for rounds in range(1, ROUNDS + 1)]


def place(case):
    return case["run_key"], case["seed"], case["start"], case["stop"]


def name(case):
    return f"{case['seed']}@{case['start']}"


def test_generator_version_is_the_known_one():
    assert KNOWN["generator_version"] == GENERATOR_VERSION


@pytest.mark.parametrize("case", KNOWN["bits"], ids=name)
def test_directions_are_the_known_ones(case):
    assert text(*place(case)) == case["bits"]


@pytest.mark.parametrize("case", KNOWN["bits"], ids=name)
def test_known_directions_are_those_of_the_specification(case):
    assert "".join(map(str, reference.direction_bits(*place(case)))) == case["bits"]


@pytest.mark.parametrize("case", KNOWN["gaussian"], ids=name)
def test_gaussian_directions_are_the_known_ones(case):
    assert quarters(*place(case)) == case["quarters"]


@pytest.mark.parametrize("case", KNOWN["gaussian"], ids=name)
def test_known_gaussian_directions_are_those_of_the_specification(case):
    assert " ".join(map(str, reference.integers("gaussian", *place(case)))) == case["quarters"]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_is_the_known_one_after_every_round(kind):
    assert digests(kind) == KNOWN["theta"][kind]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_of_gaussian_directions_is_the_known_one_after_every_round(kind):
    assert digests(kind, "gaussian") == KNOWN["theta_gaussian"][kind]


@pytest.mark.parametrize("kind", KINDS)
def test_theta_of_orthogonal_directions_with_weight_decay_is_the_known_one_after_every_round(kind):
    assert digests(kind, generator=2) == KNOWN["theta_orthogonal"][kind]


def test_known_file_has_every_case():
    assert known_answers().keys() == KNOWN.keys()
    for distribution in ("bits", "gaussian"):
        assert [place(case) for case in KNOWN[distribution]] == list(SLICES)
    assert set(KNOWN["theta"]) == set(KNOWN["theta_gaussian"]) == set(KNOWN["theta_orthogonal"]) == set(KINDS)


def test_what_doctor_compares_with_is_the_known_run():
    shipped = json.loads(files("fwdllm_common").joinpath("known_run.json").read_text())
    assert [bytes.fromhex(entry) for entry in shipped["entries"]] == [
        round_of(version).to_bytes() for version in range(1, ROUNDS + 1)
    ]
    last = {(run["optimiser"], run["directions"]): run["theta_sha256"] for run in shipped["runs"]}
    assert last == {(kind, "rademacher"): KNOWN["theta"][kind][-1] for kind in KINDS} | {
        (KINDS[0], "gaussian"): KNOWN["theta_gaussian"][KINDS[0]][-1],
        ("adam", "orthogonal"): KNOWN["theta_orthogonal"]["adam"][-1],
    }
    assert disagreements() == []
