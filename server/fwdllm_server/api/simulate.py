"""``fwdllm.simulate``: run a job on simulated devices from a notebook or a script."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fwdllm_client.tasks import RowOptions
from fwdllm_common.task import CLASSIFICATION
from fwdllm_server.api.quiet import quiet
from fwdllm_server.api.rows import RowReader, Rows
from fwdllm_server.api.run import Run
from fwdllm_server.config.toml_model import validate
from fwdllm_server.config.toml_text import to_toml
from fwdllm_server.simulation.bar import round_bar
from fwdllm_server.simulation.curve import Point
from fwdllm_server.simulation.population import Partition, Population
from fwdllm_server.simulation.simulation import Simulation


@dataclass(frozen=True)
class Round:
    """What a callback is told: the ``version`` that the round led to, of ``rounds``; 0 is the model before the first.

    ``point`` is the version's evaluation, None where the job does not evaluate it.
    """

    version: int
    rounds: int
    point: Point | None


def simulate(
    model: str | os.PathLike[str],
    train: Rows,
    held_out: Rows,
    *,
    task: str = CLASSIFICATION,
    labels: Sequence[str] | None = None,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    user_column: str | None = None,
    skip_incomplete: bool = False,
    devices: int = 100,
    partition: Partition = "iid",
    population: Mapping[str, Any] | None = None,
    rounds: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    job: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    on_round: Callable[[Round], None] | None = None,
    progress: bool = False,
    verbose: bool = False,
    threads: int = 0,
) -> Run:
    """Fine-tune a model on simulated devices, by the rounds and the engine of real ones, and return the :class:`Run`.

    It works where an event loop runs, as in a notebook; ``on_round`` is then called in another thread. Interrupted, the
    same call with the same ``out`` continues.

    :param model: a folder, a ``.gguf`` file, or a model's id on the hub.
    :param train: the devices' rows, which ``partition`` divides among ``devices``: a file, a pandas DataFrame, a split
        of a ``datasets`` dataset, or a list of dicts. Questions have the columns of SQuAD.
    :param held_out: rows of the same kind that no device sees, to evaluate on.
    :param task: ``classification`` or another task of the job file's ``[model] task``.
    :param labels: the classes; else those of the held-out rows.
    :param pair_column: the column of second texts, of pairs; else it is found by its usual names.
    :param user_column: the column of users, for ``partition="user"``.
    :param skip_incomplete: leave rows without a text or a label out.
    :param partition: ``iid``, ``dirichlet`` (skewed by label, see ``population={"alpha": …}``) or ``user``.
    :param population: further properties of the devices, by the names in :class:`Population`.
    :param rounds: the number of rounds; else the preset's.
    :param max_tokens: the length that texts are cut to, in tokens; else 128.
    :param seed: the seed of the job and of the devices.
    :param job: further keys of a job file by table, such as ``{"preset": "side", "rounds": {"max_devices": 10}}``.
    :param out: the folder of the simulation's files; else a temporary one.
    :param on_round: called with each new version. What it raises ends the run.
    :param progress: show a bar on standard error, on a terminal or in a notebook.
    :param verbose: log every event.
    :param threads: threads of the engine; 0 means one per core.
    :raises FwdllmError: the rows, the model or the job are wrong, or the training failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="fwdllm-")) if out is None else Path(out).absolute()
    try:
        asked = job or {}
        no_answer = bool(asked.get("model", {}).get("no_answer", False))
        options = RowOptions(
            text_column,
            label_column,
            skip_incomplete=skip_incomplete,
            no_answer=no_answer,
            pair_column=pair_column,
        )
        with quiet(verbose=verbose):
            reader = RowReader(folder / "rows", task, options)
            source = reader.source(train, "train", user_column)
            users = None if user_column is None else source.values(user_column)
            tables: dict[str, Any] = {
                "job": {"name": "simulation", "seed": seed},
                "model": {
                    "source": str(Path(model).absolute()) if Path(model).exists() else str(model),
                    "task": task,
                    **({} if labels is None else {"labels": list(labels)}),
                    **({} if max_tokens is None else {"max_tokens": max_tokens}),
                },
                "held_out": {
                    "file": str(reader.file(held_out, "held-out")),
                    "text_column": text_column,
                    "label_column": label_column,
                    "skip_incomplete": skip_incomplete,
                    **({} if pair_column is None else {"pair_column": pair_column}),
                },
            }
            if rounds is not None:
                tables["rounds"] = {"count": rounds}
            drawn = {"devices": devices, "seed": seed, "partition": partition, **(population or {})}
            with Simulation(
                to_toml(_merged(tables, asked)),
                Path.cwd(),
                source,
                validate(drawn, Population, "simulated devices"),
                folder / "simulation",
                users,
                threads,
            ) as simulation:
                _run(simulation, on_round, progress)
                return Run(simulation, folder, options, threads, is_temporary=out is None)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(simulation: Simulation, on_round: Callable[[Round], None] | None, progress: bool) -> None:
    rounds = simulation.spec.rounds.count
    newest: list[Point] = list(simulation.points[-1:])
    with round_bar(rounds, simulation.state.version, progress) as show:

        def committed(version: int) -> None:
            point = newest[-1] if newest and newest[-1].version == version else None
            show(version, f"{newest[-1].metric} {newest[-1].accuracy:.1%}" if newest else "")
            if on_round is not None:
                on_round(Round(version, rounds, point))

        simulation.run(newest.append, committed)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of ``below`` with the keys of ``above`` in their places."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = {**below[key], **above[key]}
    return merged
