"""Known-answer test of the replay: every machine must reproduce the same weights bit for bit to take part in a run."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np

from fwdllm_common.layout import Float32Vector, Layout
from fwdllm_common.ledger import LedgerEntry, RunHeader
from fwdllm_common.replay import ModelState


def disagreements() -> list[str]:
    """Return the test runs whose weights this machine does not reproduce bit for bit, by optimiser and directions.

    ``known_run.json`` holds a ledger of four rounds and, for each optimiser and distribution of directions, the run's
    header and the SHA-256 of its final weights.
    """
    run = json.loads(files("fwdllm_common").joinpath("known_run.json").read_text("utf-8"))
    layout = Layout.from_json(run["layout"])
    entries = [LedgerEntry.from_bytes(bytes.fromhex(entry)) for entry in run["entries"]]
    return [
        f"{case['optimiser']} with {case['directions']} directions"
        for case in run["runs"]
        if _replayed(bytes.fromhex(case["header"]), layout, entries) != case["theta_sha256"]
    ]


def initial_theta(size: int) -> Float32Vector:
    """Return the test runs' θ₀, float32 ``[size]``."""
    return (np.arange(size, dtype=np.float32) - np.float32(100)) / np.float32(64)


def _replayed(header: bytes, layout: Layout, entries: list[LedgerEntry]) -> str:
    state = ModelState.initial(RunHeader.from_bytes(header), layout, initial_theta(layout.size))
    for entry in entries:
        state.advance(entry)
    return state.digest.hex()
