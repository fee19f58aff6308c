"""Predict what a job costs a device: two simulated rounds, and the device's own benchmark in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwdllm_common.errors import FwdllmError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.resolved_spec import dump_resolved
from fwdllm_server.config.toml_text import to_toml
from fwdllm_server.preparation.evaluation import check_rows, held_out_source
from fwdllm_server.simulation.curve import Point
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.rows import read_source
from fwdllm_server.simulation.simulation import Simulation

_ROWS = 256
"""The number of held-out rows, at most, that stand in for the devices' own, all together."""
_SECURED_BYTES = 8
"""The bytes that a masked scalar takes."""
_PACKED_BYTES = 2
"""The fewest bytes that a scalar takes otherwise."""
_BENCH = "from fwdllm_client.cli.main import main; main()"


@dataclass(frozen=True)
class Cost:
    """What one device spends on one round, the mean over devices: example-passes, and bytes without the model's."""

    example_passes: float
    bytes_up: float
    bytes_down: float


@dataclass(frozen=True)
class Forecast:
    """What a job costs a device, at most.

    It is of rounds in which every block takes part, on ``devices`` devices, the fewest that a round begins with, of
    ``rows`` rows each. The first round fills the device's cache. Bytes of the model are downloaded once. Seconds and
    resident memory are those of this machine. With secure aggregation a masked scalar is sent in 8 bytes; the
    bytes of keys and shares are not counted.
    """

    rounds: int
    devices: int
    rows: int
    trainable_parameters: int
    model_bytes: int
    first: Cost
    later: Cost
    seconds_per_pass: float
    peak_rss_bytes: int

    @property
    def total(self) -> Cost:
        """The cost of all rounds, if the device takes part in each."""
        first, later, more = self.first, self.later, self.rounds - 1
        return Cost(
            first.example_passes + more * later.example_passes,
            first.bytes_up + more * later.bytes_up,
            first.bytes_down + more * later.bytes_down,
        )

    def seconds(self, cost: Cost) -> float:
        """Return the seconds of computing that a cost takes."""
        return cost.example_passes * self.seconds_per_pass


def forecast(spec: JobSpec, base_folder: Path, threads: int = 0) -> Forecast:
    """Prepare the model of a checked job as the coordinator does, and predict; nothing of it is kept.

    :raises BadInputError: the model cannot be prepared.
    :raises FwdllmError: the benchmark failed, or the training diverges at once.
    """
    rows = min(check_rows(spec, held_out_source(spec, base_folder)), _ROWS)
    devices = min(spec.rounds.min_devices, rows)
    held_out = spec.held_out
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tables = two_rounds(spec, base_folder, devices)
        columns = (held_out.text_column, held_out.label_column)
        file = Path(tables["held_out"]["file"])
        source, _ = read_source(file, spec.model, *columns, None, held_out.skip_incomplete, held_out.pair_column)
        population = Population(devices=devices, rows_per_device=rows // devices)
        with Simulation(to_toml(tables), folder, source, population, folder / "run", threads=threads) as run:
            _, first, second = run.run(lambda _: None)
            manifest = run.manifest
            found = _bench(spec, run.bundle.bundle, file, folder / "device", threads)
        return Forecast(
            rounds=spec.rounds.count,
            devices=devices,
            rows=rows // devices,
            trainable_parameters=manifest.layout.size,
            model_bytes=sum(file.bytes for file in manifest.files),
            first=cost_of(spec, first, None, devices),
            later=cost_of(spec, second, first, devices),
            seconds_per_pass=found["seconds_per_inference"] / found["rows"],
            peak_rss_bytes=found["peak_rss_bytes"],
        )


def two_rounds(spec: JobSpec, base_folder: Path, devices: int) -> dict[str, Any]:
    """Return the job's tables for two rounds, in which every block takes part.

    Simulated devices are of any kind and mask nothing; each measures as many scalars as one of a secured job.
    """
    tables: dict[str, Any] = _without_none(json.loads(dump_resolved(spec)))
    source = base_folder / spec.model.source
    tables["model"]["source"] = str(source.absolute()) if source.exists() else spec.model.source
    tables["held_out"]["file"] = str((base_folder / spec.held_out.file).absolute())
    tables["rounds"] |= {"count": 2, "evaluate_every": 1, "federated_evaluate_every": 0, "min_devices": devices}
    tables["rounds"]["patience"] = 0  # it may be one round
    tables |= {"devices": {}, "tracking": {}}
    tables["privacy"]["secure_aggregation"] = False
    for block in tables["blocks"].values():
        block |= {"first_round": 1, "every": 1}
        if block["devices_per_direction"] > devices:  # fewer held-out rows than devices
            block["devices_per_direction"] = 1
    return tables


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return value


def cost_of(spec: JobSpec, point: Point, before: Point | None, devices: int) -> Cost:
    """Return the cost of the rounds between two points of a curve, the mean over devices."""

    def spent(name: str) -> float:
        return float(getattr(point, name) - (0 if before is None else getattr(before, name))) / devices

    up = spent("bytes_up")
    if spec.privacy.secure_aggregation:
        up += (_SECURED_BYTES - _PACKED_BYTES) * spent("directions")
    return Cost(spent("example_passes"), up, spent("bytes_down"))


def _bench(spec: JobSpec, bundle: Path, data: Path, home: Path, threads: int) -> dict[str, Any]:
    """Return what ``fwdllm-client bench`` measures of the bundle, in a process without torch, as on a device."""
    held_out = spec.held_out
    options = {
        "--bundle": bundle,
        "--data": data,
        "--home": home,
        "--task": spec.model.task,
        "--text-column": held_out.text_column,
        "--label-column": held_out.label_column,
        "--threads": threads,
    }
    command = [
        sys.executable,
        "-c",
        _BENCH,
        "bench",
        "--json",
        *(str(word) for pair in options.items() for word in pair),
    ]
    if held_out.pair_column is not None:
        command += ["--pair-column", held_out.pair_column]
    if held_out.skip_incomplete:
        command.append("--skip-incomplete")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        raise FwdllmError(f"the device's benchmark failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
