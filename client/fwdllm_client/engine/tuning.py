"""Tuning of provider, threads and tokens per run to this device: measured once per model, then read from disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from fwdllm_client.data import Dataset
from fwdllm_client.engine.crashes import Crashes
from fwdllm_client.engine.processor import machine_key
from fwdllm_client.engine.provider_probe import Answers, Clock, ProviderProbe
from fwdllm_client.engine.provider_selection import Attempt, difference, select_provider
from fwdllm_client.engine.providers import OPT_IN
from fwdllm_client.engine.runs import TOKENS_PER_RUN
from fwdllm_client.engine.sessions import Provider
from fwdllm_client.engine.stages import StageChain
from fwdllm_common.errors import StorageError
from fwdllm_common.files import make_folder, write_atomically
from fwdllm_common.manifest import Manifest

BUDGET_S = 20.0
"""Time limit of the measurements, seconds; then the best settings found so far are taken."""
TOKENS_TRIED = (128, 256, 512)
_FORMAT = 1
# A larger run or more threads must reduce the time to this share to be worth their memory or heat.
_WORTH = 0.95

_log = structlog.get_logger()


@dataclass(frozen=True)
class Tuning:
    """The tuned settings; ``attempts`` are the providers' results, ``reference`` the CPU's answers if computed."""

    provider: str
    threads: int
    tokens_per_run: int
    seconds_per_token: float
    attempts: Sequence[Attempt]
    reference: Answers | None = None


class Tuner:
    """Tunes for the bundle in ``folder`` on rows of ``dataset``.

    ``candidates`` are tried before the ``cpu``. ``threads`` of 0 means as many as are worthwhile. Tunings are kept in
    ``cache_folder``; ``clock`` gives seconds.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        dataset: Dataset,
        candidates: Sequence[Provider],
        cpu: Provider,
        threads: int,
        cache_folder: Path,
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._probe = ProviderProbe(dataset)
        self._candidates = candidates
        self._cpu = cpu
        self._threads = threads
        self._clock = clock
        sha256 = hashlib.sha256(manifest.to_bytes()).hexdigest()
        self._path = cache_folder / f"{machine_key(sha256, str(threads))}.json"
        self._crashes = Crashes(self._path.with_suffix(".trying"))

    def tuning(self) -> Tuning:
        """Return the stored tuning if it is still valid, else measure a new one."""
        found = self._stored()
        if found is None or not self._is_valid(found):
            _log.debug("no valid tuning is in the cache, measuring", path=str(self._path))
            return self.measure()
        _log.debug("tuning is in the cache", provider=found.provider, threads=found.threads)
        return found

    def measure(self, opt_in: bool = False) -> Tuning:
        """Measure and store a tuning; if the disk cannot be written, the next start measures again.

        Providers in :data:`OPT_IN` are tried only with ``opt_in``; one that is chosen then stays chosen.
        """
        began = self._clock()
        tried = [each for each in self._candidates if opt_in or each.name not in OPT_IN]
        found = self._measured(tried, began + BUDGET_S)
        self._crashes.survived()
        try:
            make_folder(self._path.parent)
            write_atomically(self._path, json.dumps({"format": _FORMAT, **asdict(found)}, indent=1).encode())
        except StorageError as error:
            _log.warning("the tuning will be measured again at the next start", reason=str(error))
        _log.info(
            "tuned to this device",
            provider=found.provider,
            threads=found.threads,
            tokens_per_run=found.tokens_per_run,
            seconds=round(self._clock() - began, 1),
        )
        return found

    def provider(self, tuning: Tuning) -> Provider:
        """Return the provider that a tuning names, or else the CPU."""
        return next((each for each in self._candidates if each.name == tuning.provider), self._cpu)

    def _measured(self, candidates: Sequence[Provider], deadline: float) -> Tuning:
        most = self._threads or _cores()
        if not self._runs_on_tokens:  # only the head is trained: runs are too short to be measured
            return Tuning(self._cpu.name, most, TOKENS_PER_RUN, 0.0, ())
        watched = [self._crashes.watched(each) for each in candidates]
        found = select_provider(self._folder, self._manifest, self._probe, watched, self._cpu, most, self._clock)
        best = {most: min(each.seconds_per_token for each in found.attempts if each.seconds_per_token is not None)}
        for threads in _fewer(most) if self._threads == 0 else ():
            if self._clock() < deadline:
                best[threads] = self._seconds(found.best, threads, TOKENS_PER_RUN)
        threads = min(each for each in best if best[each] * _WORTH <= min(best.values()))
        sizes = {TOKENS_PER_RUN: best[threads]}
        for tokens in TOKENS_TRIED:
            if tokens not in sizes and self._clock() < deadline:
                sizes[tokens] = self._seconds(found.best, threads, tokens)
        tokens = min(each for each in sizes if sizes[each] * _WORTH <= min(sizes.values()))
        return Tuning(found.best.name, threads, tokens, sizes[tokens], found.attempts, found.reference)

    @property
    def _runs_on_tokens(self) -> bool:
        """Whether directions do; side modules are small, and the frozen stages run once for each row."""
        return self._manifest.stages[self._manifest.frozen - 1].per_token and not self._manifest.features

    def _seconds(self, provider: Provider, threads: int, tokens: int) -> float:
        chain = StageChain(self._folder, self._manifest, provider, threads)
        return self._probe.seconds_per_token(chain, tokens, self._clock)

    def _stored(self) -> Tuning | None:
        try:
            value = json.loads(self._path.read_bytes())
            return _tuning(value) if value["format"] == _FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _is_valid(self, tuning: Tuning) -> bool:
        """Return whether the tuned provider is available and, if not the CPU, still gives the CPU's answers."""
        if tuning.provider == self._cpu.name:
            return True
        provider = self._crashes.watched(self.provider(tuning))
        if provider.name != tuning.provider:
            return False
        try:
            chain = StageChain(self._folder, self._manifest, provider, tuning.threads)
            is_valid = tuning.reference is not None and difference(self._probe.answers(chain), tuning.reference) is None
            self._crashes.survived()
        except Exception as error:  # whatever a provider's library raises is a reason not to use it
            _log.warning("the provider does not work any more", provider=provider.name, reason=str(error))
            return False
        return is_valid


def _tuning(value: dict[str, Any]) -> Tuning:
    reference = value["reference"]
    found = Tuning(
        provider=str(value["provider"]),
        threads=int(value["threads"]),
        tokens_per_run=int(value["tokens_per_run"]),
        seconds_per_token=float(value["seconds_per_token"]),
        attempts=[Attempt(**attempt) for attempt in value["attempts"]],
        reference=None if reference is None else Answers(tuple(reference["losses"]), tuple(reference["rises"])),
    )
    if found.threads < 1 or found.tokens_per_run not in TOKENS_TRIED:
        raise ValueError("no such tuning")
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fewer(most: int) -> Sequence[int]:
    """Return half of the threads, a quarter, …, 1."""
    return [most >> shift for shift in range(1, most.bit_length())]
