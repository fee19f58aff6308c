"""Selection of the execution provider: the fastest one whose results agree with the CPU's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fwdllm_client.engine.provider_probe import Answers, Clock, ProviderProbe
from fwdllm_client.engine.providers import placement
from fwdllm_client.engine.runs import TOKENS_PER_RUN
from fwdllm_client.engine.sessions import CPU_PROVIDER, Provider
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.manifest import Manifest

LOSS_TOLERANCE = 0.02
"""Greatest relative difference of a loss from the CPU's; float16 causes a tenth of it in a deep model."""
RISE_TOLERANCE = 0.1
"""Greatest difference of the loss differences, which make the scalars, from the CPU's, relative to their norm."""


@dataclass(frozen=True)
class Attempt:
    """The result for one provider: seconds per token, or why it is ``refused``; the number of ``nodes`` by provider."""

    provider: str
    seconds_per_token: float | None = None
    refused: str | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The best provider, the results of all, and the CPU's answers if they were computed."""

    best: Provider
    attempts: Sequence[Attempt]
    reference: Answers | None


def select_provider(
    folder: Path,
    manifest: Manifest,
    probe: ProviderProbe,
    candidates: Sequence[Provider],
    cpu: Provider,
    threads: int,
    clock: Clock,
) -> Selection:
    """Try ``candidates`` and the ``cpu`` on the bundle in ``folder``.

    The CPU's answers are computed only if a candidate runs. ``threads`` of 0 means one per core; ``clock`` gives
    seconds.
    """
    reference: list[Answers] = []

    def expected() -> Answers:
        if not reference:
            reference.append(probe.answers(StageChain(folder, manifest, cpu, threads)))
        return reference[0]

    def attempts() -> Iterator[tuple[Provider, Attempt]]:
        for candidate in candidates:
            chain = StageChain(folder, manifest, candidate, threads)
            try:
                refused = difference(probe.answers(chain), expected())
                seconds = None if refused else probe.seconds_per_token(chain, TOKENS_PER_RUN, clock)
                # Sessions of fixed shapes know it only after a run; those that gave the answers are unloaded by now.
                nodes = placement(chain.session(manifest.frozen))
                refused = refused or _idle(nodes)
            except Exception as error:  # whatever a provider's library raises is a reason not to use it
                yield candidate, Attempt(candidate.name, refused=" ".join(str(error).split()))
            else:
                yield candidate, Attempt(candidate.name, None if refused else seconds, refused, nodes)
        chain = StageChain(folder, manifest, cpu, threads)
        yield cpu, Attempt(cpu.name, probe.seconds_per_token(chain, TOKENS_PER_RUN, clock))

    tried = list(attempts())
    usable = [
        (attempt.seconds_per_token, provider) for provider, attempt in tried if attempt.seconds_per_token is not None
    ]
    best = min(usable, key=lambda pair: pair[0])[1]
    return Selection(best, [attempt for _, attempt in tried], reference[0] if reference else None)


def difference(found: Answers, reference: Answers) -> str | None:
    """Return how the answers differ from the CPU's ones, ``reference``; None if they are within the tolerances."""
    losses, expected = np.array(found.losses), np.array(reference.losses)
    off = np.abs(losses - expected) / np.maximum(np.abs(expected), 1e-3)
    if not np.all(off <= LOSS_TOLERANCE):  # also for NaN
        return f"its losses differ from the CPU's by {off.max():.2g} of them, more than {LOSS_TOLERANCE}"
    rises, expected = np.array(found.rises), np.array(reference.rises)
    error = float(np.linalg.norm(rises - expected) / max(float(np.linalg.norm(expected)), 1e-12))
    if not error <= RISE_TOLERANCE:
        return f"its differences of losses are off by {error:.2g} of the CPU's, more than {RISE_TOLERANCE}"
    return None


def _idle(nodes: Mapping[str, int]) -> str | None:
    """Return the reason to refuse a provider that left all nodes to the CPU."""
    if nodes and not nodes.keys() - {CPU_PROVIDER}:
        return f"it took none of the {sum(nodes.values())} nodes"
    return None
