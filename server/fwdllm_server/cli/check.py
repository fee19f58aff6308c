"""``fwdllm-server job submit --check``: everything that a submitted job does but start."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fwdllm_common.logging import configure_logging
from fwdllm_server.algorithm.accountant import check_accountant, noise_multiplier
from fwdllm_server.cli.formatting import columns, duration, size
from fwdllm_server.cli.job_file import read_job_file
from fwdllm_server.model.source import check_source
from fwdllm_server.views.message_json import print_json

if TYPE_CHECKING:
    from fwdllm_server.config.job import JobSpec
    from fwdllm_server.simulation.forecast import Cost, Forecast


def check(file: Path, json: bool) -> None:
    """Check a job file, its data and its model, and print what the job will cost a device.

    :raises BadInputError: as ``job submit``, or the model cannot be prepared.
    """
    configure_logging(least=logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")
    text, base_folder = read_job_file(file), file.absolute().parent
    # Imported here: the other commands need neither the engine nor torch.
    from fwdllm_server.preparation.evaluation import check_held_out
    from fwdllm_server.preparation.job_file import read_job
    from fwdllm_server.simulation.forecast import forecast

    spec = read_job(text, base_folder)
    check_accountant(spec.privacy)
    check_held_out(spec, base_folder)
    check_source(spec.model.resolved_source(base_folder))
    with Console(stderr=True).status("preparing the model and simulating two rounds"):
        found = forecast(spec, base_folder)
    if json:
        costs = {name: asdict(cost) | {"seconds": found.seconds(cost)} for name, cost in _costs(found)}
        budget = spec.privacy.budget
        privacy = None if budget is None else {**budget._asdict(), "noise_multiplier": noise_multiplier(budget)}
        print_json({"job": spec.job.name, **asdict(found), **costs, "privacy": privacy})
    else:
        print(f"job {spec.job.name} can start; nothing was submitted\n")
        print("\n".join([*_lines(found), *_privacy(spec)]))


def _costs(found: Forecast) -> Iterator[tuple[str, Cost]]:
    yield from (("first", found.first), ("later", found.later), ("total", found.total))


def _lines(found: Forecast) -> Iterator[str]:
    names = {"first": "first round", "later": "later round", "total": f"all {found.rounds:,} rounds"}
    rows = [(names[name], *_row(found, cost)) for name, cost in _costs(found)]
    yield columns(("OF ONE DEVICE", "PASSES", "COMPUTING", "SENT", "RECEIVED"), rows)
    yield ""
    yield f"{found.trainable_parameters:,} trainable parameters, a model of {size(found.model_bytes)} to download once"
    yield f"on this machine: {1 / found.seconds_per_pass:,.0f} passes a second, {size(found.peak_rss_bytes)} of memory"
    yield f"predicted of {found.devices:,} devices, that is as many as a round needs, of {found.rows:,} rows each, and"
    yield "of rounds in which every block takes part; more devices, or rounds of fewer blocks, cost each device less"


def _privacy(spec: JobSpec) -> Iterator[str]:
    budget = spec.privacy.budget
    if budget is None:
        return
    yield ""
    rounds = min(spec.rounds.count, budget.releases)
    yield (
        f"differential privacy: noise of {noise_multiplier(budget):g} times the clip on each sum, with which epsilon = "
        f"{budget.epsilon:g} at delta = {budget.delta:g} lasts for {budget.releases:,} rounds of a device"
    )
    if rounds < spec.rounds.count:
        yield (
            f"a fleet of no more than {spec.rounds.min_devices:,} devices ends after {rounds:,} of "
            f"{spec.rounds.count:,} rounds; a larger one, whose devices take turns, does more"
        )


def _row(found: Forecast, cost: Cost) -> tuple[str, ...]:
    passes = f"{cost.example_passes:,.0f}"
    return passes, duration(found.seconds(cost)), size(cost.bytes_up), size(cost.bytes_down)
