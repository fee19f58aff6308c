"""``fwdllm-server simulate``: run a job on simulated devices, on this machine alone."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from fwdllm_common.errors import INTERRUPTED_EXIT_CODE
from fwdllm_common.logging import configure_logging
from fwdllm_server.cli.formatting import duration, size
from fwdllm_server.cli.job_file import read_job_file
from fwdllm_server.cli.options import JsonOption
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml, validate
from fwdllm_server.views.message_json import print_json

if TYPE_CHECKING:
    from fwdllm_server.simulation.curve import Point
    from fwdllm_server.simulation.simulation import Simulation


def simulate(
    file: Annotated[Path, typer.Argument(metavar="JOB", help="The job file, TOML.")],
    data: Annotated[Path, typer.Option(help="File of the devices' rows, in a format that devices read.")],
    out: Annotated[Path, typer.Option(help="The simulation's folder; the same command continues from it.")],
    text_column: Annotated[str, typer.Option(help="Name of the column of texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Name of the column of labels.")] = "label",
    pair_column: Annotated[str | None, typer.Option(help="Name of the column of second texts, of pairs.")] = None,
    user_column: Annotated[str | None, typer.Option(help="Name of the column of users, for --partition user.")] = None,
    skip_incomplete: Annotated[
        bool, typer.Option("--skip-incomplete", help="Skip, and count, rows without a text or a label.")
    ] = False,
    devices: Annotated[int, typer.Option(help="Number of devices; with --partition user, the largest number.")] = 100,
    partition: Annotated[
        Literal["iid", "dirichlet", "user"],
        typer.Option(help="How to divide the rows among devices: at random, skewed by label, or by user."),
    ] = "iid",
    alpha: Annotated[
        float, typer.Option(help="Concentration of --partition dirichlet; a small value is skewed.")
    ] = 1.0,
    rows_per_device: Annotated[int, typer.Option(help="Largest number of rows of a device; 0 means no bound.")] = 0,
    validation: Annotated[
        float, typer.Option(help="Fraction of a device's rows that are held out for evaluation.")
    ] = 0.0,
    passes_per_s: Annotated[float, typer.Option(help="Median speed of a device, in example-passes a second.")] = 50.0,
    speed_spread: Annotated[float, typer.Option(help="Standard deviation of the logarithm of the speed.")] = 0.0,
    latency: Annotated[float, typer.Option(help="Latency of a message, in seconds.")] = 0.1,
    availability: Annotated[float, typer.Option(help="Probability that a device is available, in each minute.")] = 1.0,
    dropout_rate: Annotated[
        float,
        typer.Option("--dropout-rate", "--drop-out", help="Probability that a device drops out of an assignment."),
    ] = 0.0,
    byzantine: Annotated[float, typer.Option(help="Fraction of devices that report false scalars.")] = 0.0,
    attack: Annotated[
        Literal["flip", "large", "constant", "random", "nan", "flip-large"],
        typer.Option(help="What the Byzantine devices report."),
    ] = "flip",
    seed: Annotated[int, typer.Option(help="Seed of everything random about the devices.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the engine; 0 means one per core.")] = 0,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log the coordinator's events, debug events among them.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a job on simulated devices. Rounds and engine are the real ones; time is simulated."""
    configure_logging(verbose=verbose, least=logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of the libraries that export the model
    text = read_job_file(file)
    # Imported here: the other commands need neither the engine nor the rounds.
    from fwdllm_server.simulation.population import Population
    from fwdllm_server.simulation.rows import read_source
    from fwdllm_server.simulation.simulation import Simulation

    drawn_from = {
        "devices": devices,
        "seed": seed,
        "partition": partition,
        "alpha": alpha,
        "rows_per_device": rows_per_device,
        "validation_fraction": validation,
        "passes_per_s": passes_per_s,
        "speed_spread": speed_spread,
        "latency_s": latency,
        "availability": availability,
        "dropout_rate": dropout_rate,
        "byzantine": byzantine,
        "attack": attack,
    }
    population = validate(drawn_from, Population, "simulated devices")
    model = parse_toml(text, JobSpec, "job file").model
    source, users = read_source(data, model, text_column, label_column, user_column, skip_incomplete, pair_column)
    try:
        with Console(stderr=True).status("preparing the model, unless an earlier run did"):
            prepared = Simulation(text, file.absolute().parent, source, population, out, users, threads)
        with prepared as simulation:
            _run(simulation, out, json)
    except KeyboardInterrupt:
        again = shlex.join(["fwdllm-server", *sys.argv[1:]])
        print(f"interrupted; continue from there with the same command: {again}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None


def _run(simulation: Simulation, out: Path, json: bool) -> None:
    from fwdllm_server.simulation.bar import round_bar

    devices = len(simulation.devices)
    wanted = simulation.spec.rounds.count

    def report(point: Point) -> None:
        if json:
            print_json(asdict(point))
        else:
            print(line(point, wanted, devices), flush=True)

    if not json:
        rows = sum(len(device.training) for device in simulation.devices)
        print(f"{devices} devices, {rows:,} rows, {simulation.manifest.layout.size:,} trainable parameters")
        if simulation.points:
            print(f"continues at round {simulation.state.version} of {wanted}", flush=True)
    with round_bar(wanted, simulation.state.version) as show:
        points = simulation.run(report, lambda version: show(version, ""))
    adapter = out.absolute() / "adapter"
    simulation.export(adapter)
    outcome = simulation.outcome
    first, last, best = points[0], points[-1], min(points, key=_order)
    if json:
        print_json({**asdict(outcome), "points": len(points), "adapter": str(adapter)})
        return
    ended = f"{outcome.message}\n" if outcome.message else ""
    print(
        f"{_name(first)} {_figure(first)} before, {_figure(last)} after, {_figure(best)} at best "
        f"(round {best.version})\n"
        f"{ended}"
        f"{outcome.rounds_committed} rounds committed, {outcome.rounds_abandoned} abandoned; {outcome.scalars_late} "
        f"scalars late, {outcome.scalars_repeated} repeated, {outcome.scalars_unusable} unusable\n"
        f"{last.device_seconds / devices:,.1f} s of computing and {_traffic(last, devices)} a device, in "
        f"{duration(last.seconds)} simulated\n"
        f"{adapter}"
    )


def line(point: Point, wanted: int, devices: int) -> str:
    """Format a point of the learning curve as one line."""
    return (
        f"round {point.version} of {wanted}: {_score(point)}, loss {point.loss:.4f}, "
        f"{point.directions:,} directions, {point.example_passes:,.0f} example-passes, "
        f"{duration(point.seconds)} simulated, {_traffic(point, devices)} a device"
    )


def _score(point: Point) -> str:
    surprise = "" if point.perplexity is None else f"perplexity {point.perplexity:.4g}, "
    exact = "" if point.exact_match is None else f", {point.metric_beside} {point.exact_match:.1%}"
    return f"{surprise}{point.metric} {point.accuracy:.1%}{exact}"


def _name(point: Point) -> str:
    return point.metric if point.perplexity is None else "perplexity"


def _figure(point: Point) -> str:
    return f"{point.accuracy:.1%}" if point.perplexity is None else f"{point.perplexity:.4g}"


def _order(point: Point) -> float:
    return -point.accuracy if point.perplexity is None else point.loss


def _traffic(point: Point, devices: int) -> str:
    return f"{size(point.bytes_up / devices)} up, {size(point.bytes_down / devices)} down"
