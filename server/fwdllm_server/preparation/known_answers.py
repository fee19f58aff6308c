"""The known-answer test of a bundle: drawn before quantisation, measured before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fwdllm_client import tasks as client_tasks
from fwdllm_client.data import Dataset
from fwdllm_client.engine.known_answers import known_answer_scalars
from fwdllm_common.known_answers import TEST_DIRECTIONS, KnownAnswerTest, signal_to_noise
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest
from fwdllm_server.config.job_sections import PerturbationSection
from fwdllm_server.tasks import task_named

KNOWN_ANSWERS_FILE = "known-answers.bin"
# Texts of our own: every device of every job receives them, so they must be nobody's data.
TEXTS = (
    "The committee will publish its report on the new railway line in the spring.",
    "A late goal gave the visitors their first win of the season on Saturday.",
    "Shares fell after the company said that its profit would be lower than expected.",
    "The telescope has found water vapour in the air of a distant planet.",
    "I would not buy this kettle again, it leaked on the second day.",
    "What a lovely film; we laughed and cried and stayed for the credits.",
)
_MAX_TOKENS = 32
_MOVED = 0.03


def draw_test(
    bundle: Path, manifest: Manifest, theta: Float32Vector, perturbation: PerturbationSection
) -> KnownAnswerTest:
    """Return the known-answer test of the float32 bundle in ``bundle``, with ε as at ``theta``, float32 ``[d]``.

    Its own θ is ``theta`` moved along one fixed direction: below a head of zeros every directional derivative is zero.
    """
    dataset = _tokenised(bundle, manifest)
    test = KnownAnswerTest(
        rows=[dataset.token_ids[a:b].tolist() for a, b in zip(dataset.offsets, dataset.offsets[1:], strict=False)],
        labels=dataset.targets(np.arange(len(dataset))).tolist(),
        theta=TEST_DIRECTIONS.perturb(theta, np.zeros(1, dtype=np.uint64), 0, _MOVED)[0],
        epsilons=_epsilons(manifest, theta, perturbation),
        central=perturbation.difference == "central",
        expected={},
        float32={},
    )
    scalars = known_answer_scalars(bundle, manifest, test, bundle.parent, threads=0)
    return replace(test, expected=scalars, float32=scalars)


def expect_of(bundle: Path, manifest: Manifest, test: KnownAnswerTest) -> KnownAnswerTest:
    """Return the test with the scalars that the bundle gives as it is now."""
    return replace(test, expected=known_answer_scalars(bundle, manifest, test, bundle.parent, threads=0))


def fidelity(test: KnownAnswerTest) -> float:
    """Return the signal-to-noise ratio of the bundle's scalars against those of the float32 model."""
    return signal_to_noise(test.expected, test.float32)


def _tokenised(bundle: Path, manifest: Manifest) -> Dataset:
    short = replace(manifest, max_tokens=min(manifest.max_tokens, _MAX_TOKENS))
    with TemporaryDirectory(dir=bundle.parent) as folder:
        file = Path(folder) / "rows.jsonl"
        rows = task_named(manifest.task).known_answer_rows(TEXTS, manifest.labels)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        source = client_tasks.task_named(manifest.task).source(file)
        return Dataset.load(source, bundle / manifest.tokenizer.name, short)


def _epsilons(manifest: Manifest, theta: Float32Vector, perturbation: PerturbationSection) -> Mapping[str, float]:
    return {name: perturbation.epsilon_at(theta[block.slice]) for name, block in manifest.layout.blocks.items()}
