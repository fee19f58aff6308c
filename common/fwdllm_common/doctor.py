"""The checks and the report of ``doctor`` that coordinator and device share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fwdllm_common.errors import FwdllmError
from fwdllm_common.known_run import disagreements


@dataclass(frozen=True)
class Verdict:
    """The result of one check: what was ``found``, and what to do or type ``next`` unless the state is ok."""

    state: Literal["ok", "warning", "failed"]
    found: str
    next: str = ""


Check: TypeAlias = Callable[[], Verdict]
"""A check of one thing; a :class:`FwdllmError` that it raises counts as failed."""


def ok(found: str) -> Verdict:
    """Return a verdict without anything to do."""
    return Verdict("ok", found)


def warning(found: str, next: str) -> Verdict:  # noqa: A002 - as in the report
    """Return the verdict of something that works now, but will stop working or works below its capability."""
    return Verdict("warning", found, next)


def failed(found: str, next: str) -> Verdict:  # noqa: A002
    """Return the verdict of something that cannot work."""
    return Verdict("failed", found, next)


def examine(checks: Mapping[str, Check]) -> Iterator[tuple[str, Verdict]]:
    """Run every check, also after a failed one, and yield its name and verdict."""
    for name, check in checks.items():
        try:
            yield name, check()
        except FwdllmError as error:
            yield name, failed(" ".join(str(error).split()), f"more: explain {error.code}")


def report(findings: Iterable[tuple[str, Verdict]], show: Callable[[str], None] | None) -> list[dict[str, Any]]:
    """Return the findings as JSON values; call ``show`` with each finding's lines of text as soon as it is known."""
    facts = []
    for name, verdict in findings:
        facts.append({"check": name, **asdict(verdict)})
        if show is not None:
            show(f"{verdict.state:8} {name:13} {verdict.found}")
            if verdict.next:
                show(f"{'':22} next: {verdict.next}")
    return facts


def raise_failures(facts: Sequence[Mapping[str, Any]]) -> None:
    """Raise an error if a check failed.

    :raises FwdllmError: the message names the failed checks.
    """
    if names := [fact["check"] for fact in facts if fact["state"] == "failed"]:
        raise FwdllmError(f"{len(names)} of {len(facts)} checks failed: {', '.join(names)}; do what stands beside them")


def software(distributions: Sequence[str], extra: str) -> Verdict:
    """Check that the packages of ``fwdllm[extra]`` are installed, and report their versions."""
    found, missing = [], []
    for name in distributions:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return failed(f"not installed: {', '.join(missing)}", f"pip install 'fwdllm[{extra}]'")
    return ok(", ".join(found))


def generator() -> Verdict:
    """Check that this machine reproduces the known answers of directions and weights."""
    if wrong := disagreements():
        return failed(
            f"weights differ from the known answers: {'; '.join(wrong)}",
            "install another build of numpy, and report this: such a machine must take part in no run",
        )
    return ok("directions and weights match the known answers bit for bit")


def room(free: int, needed: int, what: str) -> Verdict:
    """Check that ``free`` bytes of disk or memory suffice for ``what``, which takes ``needed`` bytes."""
    found = f"{free / 1e9:.1f} GB free, {what} needs about {needed / 1e9:.1f} GB"
    if free < needed:
        return warning(found, "free some, or the work may fail with 'no space left' or be killed by the system")
    return ok(found)


def available_memory() -> int:
    """Return the memory that a program may still allocate, bytes; all of it where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
