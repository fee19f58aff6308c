"""Known-answer test of ONNX Runtime on this machine, by a tiny model in the package.

``bundle/`` is the exported bundle of a BERT of three layers of width 32, with random weights and LoRA on the last
layer; its known-answer test holds the expected scalars.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fwdllm_client.engine.known_answers import known_answer_scalars
from fwdllm_client.engine.providers import accelerators
from fwdllm_client.engine.sessions import Cpu, Provider
from fwdllm_common.known_answers import KnownAnswerTest, signal_to_noise
from fwdllm_common.manifest import MANIFEST_FILE, Manifest

BUNDLE_FOLDER = Path(__file__).parent / "bundle"
ENOUGH = 10.0
"""Least signal-to-noise ratio: float32 gives far above 100 on any machine, and a coordinator requires 3."""


def bundle_signal_to_noise(folder: Path, manifest: Manifest, provider: Provider = Cpu()) -> float | None:  # noqa: B008
    """Run the bundle's known-answer test; return the signal-to-noise ratio, or None for a bundle without a test.

    :raises BadInputError: a graph is unreadable.
    """
    if manifest.known_answers is None:
        return None
    test = KnownAnswerTest.from_bytes((folder / manifest.known_answers.name).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        found = known_answer_scalars(folder, manifest, test, Path(scratch), threads=1, provider=provider)
    return signal_to_noise(found, test.expected)


def providers_tried(candidates: Sequence[Provider] | None = None) -> Iterator[tuple[str, float | str]]:
    """Yield each provider's signal-to-noise ratio on the package's bundle, or why it does not run; the CPU first."""
    manifest = Manifest.from_bytes((BUNDLE_FOLDER / MANIFEST_FILE).read_bytes())
    for provider in candidates or [Cpu(), *accelerators(manifest)]:
        try:
            yield provider.name, bundle_signal_to_noise(BUNDLE_FOLDER, manifest, provider) or 0.0
        except Exception as error:  # whatever a provider's library raises is a reason not to use it
            yield provider.name, " ".join(str(error).split())
