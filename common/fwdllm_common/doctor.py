"""What ``doctor`` says on both sides: findings, each with what to type next."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fwdllm_common.errors import FwdllmError
from fwdllm_common.golden import disagreements


@dataclass(frozen=True)
class Verdict:
    """How one thing is: what was ``found``, and what to do or type ``next`` unless all is well."""

    state: Literal["ok", "warning", "failed"]
    found: str
    next: str = ""


Check: TypeAlias = Callable[[], Verdict]
"""Looks at one thing; a :class:`FwdllmError` that it raises is a failed one."""


def ok(found: str) -> Verdict:
    """All is well."""
    return Verdict("ok", found)


def warning(found: str, next: str) -> Verdict:  # noqa: A002 - the user's word
    """It works, and will not for long or not as it might."""
    return Verdict("warning", found, next)


def failed(found: str, next: str) -> Verdict:  # noqa: A002
    """It cannot work."""
    return Verdict("failed", found, next)


def examine(checks: Mapping[str, Check]) -> Iterator[tuple[str, Verdict]]:
    """Do every check, also after one that failed."""
    for name, check in checks.items():
        try:
            yield name, check()
        except FwdllmError as error:
            yield name, failed(" ".join(str(error).split()), f"more: explain {error.code}")


def report(findings: Iterable[tuple[str, Verdict]], show: Callable[[str], None] | None) -> list[dict[str, Any]]:
    """The findings for programs; ``show`` gets lines for people, each finding's as soon as it is known."""
    facts = []
    for name, verdict in findings:
        facts.append({"check": name, **asdict(verdict)})
        if show is not None:
            show(f"{verdict.state:8} {name:13} {verdict.found}")
            if verdict.next:
                show(f"{'':22} next: {verdict.next}")
    return facts


def raise_failures(facts: Sequence[Mapping[str, Any]]) -> None:
    """End the program as failed if a check did.

    :raises FwdllmError: it names them.
    """
    if names := [fact["check"] for fact in facts if fact["state"] == "failed"]:
        raise FwdllmError(f"{len(names)} of {len(facts)} checks failed: {', '.join(names)}; do what stands beside them")


def software(distributions: Sequence[str], extra: str) -> Verdict:
    """Whether the packages of ``fwdllm[extra]`` are installed, and in which versions."""
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
    """Whether this machine comes to the golden directions and weights."""
    if wrong := disagreements():
        return failed(
            f"weights differ from the golden ones: {'; '.join(wrong)}",
            "install another build of numpy, and report this: such a machine must take part in no run",
        )
    return ok("golden directions and weights, bit for bit")


def room(free: int, needed: int, what: str) -> Verdict:
    """Whether ``free`` bytes of disk or memory are enough for what ``needed`` bytes are needed for."""
    found = f"{free / 1e9:.1f} GB free, {what} needs about {needed / 1e9:.1f} GB"
    if free < needed:
        return warning(found, "free some, or the work may end with 'no space left' or be killed by the system")
    return ok(found)


def available_memory() -> int:
    """Memory that a program may still take, bytes; where the system does not tell, all there is."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
