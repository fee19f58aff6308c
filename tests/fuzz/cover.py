"""``python -m fuzz.cover TARGET RUNS``: one decoder under coverage-guided fuzzing; exit code 0 if nothing was found."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fwdllm_common", "fwdllm_client.agent.journal"]):
    from fuzz.targets import REFUSALS, TARGETS

    from fwdllm_common.errors import FwdllmError

_LONGEST = 4096
_MEGABYTES = 1500
_SECONDS = 10


def main() -> None:
    """Fuzz; libFuzzer ends the process."""
    target, runs = TARGETS[sys.argv[1]], int(sys.argv[2])

    def decode(data: bytes) -> None:
        try:
            target.decode(data)
        except (FwdllmError, *REFUSALS):
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-max_len={_LONGEST}", f"-rss_limit_mb={_MEGABYTES}", f"-timeout={_SECONDS}"]
        atheris.Setup([sys.argv[0], f"-runs={runs}", "-seed=1", *limits, corpus], decode)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
