"""Whole simulations: what is kept in their folder, and what becomes of one that was interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from dataclasses import asdict
from itertools import pairwise

import pytest
from helpers.tiny_job import job_spec, job_toml
from peft import PeftModel
from server.simulation.conftest import SIMULATED

from fwdllm_client.engine import Engine
from fwdllm_client.tasks.classification import DataSource
from fwdllm_common.errors import BadInputError, BusyError, JobFailedError, StorageError
from fwdllm_server.model.adapter_template import load_base_of
from fwdllm_server.simulation import simulation as module
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.running import run_to_end
from fwdllm_server.simulation.simulation import Simulation

VARIED = {"dropout_rate": 0.2, "availability": 0.7, "speed_spread": 1.0, "partition": "dirichlet", "alpha": 0.5}


class DiedError(Exception):
    """The process ended."""


def silently(point) -> None:
    pass


@pytest.fixture
def dies(monkeypatch):
    """Makes the engine's n-th task from now on the last thing that happens to a simulation."""

    def dies(at: int, task: str = "derivatives") -> None:
        compute, left = getattr(Engine, task), at

        def mortal(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                raise DiedError
            return compute(*arguments)

        monkeypatch.setattr(Engine, task, mortal)

    return dies


@pytest.mark.usefixtures("ready")
def test_a_simulation_whose_validation_loss_falls_no_more_ends_early_and_is_tracked(place, tmp_path):
    still = {name: {**SIMULATED[name], "learning_rate": 1e-9} for name in ("blocks.head", "blocks.peft")}
    held_out = {"file": "held_out.csv", "validation": 0.3}
    rounds = {"count": 30, "min_devices": 3, "evaluate_every": 1, "patience": 2}
    watched = {"held_out": held_out, "rounds": rounds, "tracking": {"to": ["tensorboard"]}}
    toml = job_toml({**SIMULATED, **still, **watched})
    population = Population(devices=3)
    with Simulation(toml, place, DataSource(place / "train.csv"), population, tmp_path / "run", threads=1) as run:
        points = run.run(silently)
        outcome = run.outcome

    assert outcome.message.startswith("stopped early: none of the 2 rounds after version ")
    assert outcome.rounds_committed == points[-1].version < 30
    assert [file.name for file in (tmp_path / "run" / "tensorboard").iterdir()]


def test_a_simulation_runs_to_its_end(simulate, tmp_path):
    run = simulate("run")
    heard = []
    points = run.run(heard.append)

    assert list(points) == heard
    assert [point.version for point in points] == [0, 2, 4]
    assert [point.directions for point in points] == [0, 84, 168]
    assert points[0].accuracy < points[-1].accuracy
    assert points[0].seconds == points[0].example_passes == points[0].bytes_up == 0
    for before, after in pairwise(points):
        assert before.seconds < after.seconds
        assert before.example_passes < after.example_passes
        assert before.bytes_down < after.bytes_down
    assert json.loads((tmp_path / "run" / "curve.json").read_text()) == [asdict(point) for point in points]
    assert (run.outcome.rounds_committed, run.outcome.rounds_abandoned, run.outcome.scalars_late) == (4, 0, 0)
    assert len(run.ledger()) == 4


async def test_it_runs_inside_of_an_event_loop_too(simulate):
    """As in a notebook, whose cells an event loop runs."""
    points = list(simulate("run").run(silently))

    assert [point.version for point in points] == [0, 2, 4]


async def test_what_fails_inside_of_an_event_loop_is_heard(simulate, dies):
    dies(at=3)
    with pytest.raises(DiedError):
        simulate("run").run(silently)


async def test_ctrl_c_inside_of_an_event_loop_is_as_outside():
    told = []

    async def interrupted():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("a checkpoint")
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(interrupted())
    finally:
        signal.signal(signal.SIGINT, before)

    assert told == ["a checkpoint"]


def test_a_simulation_that_is_done_is_not_run_again(simulate):
    first = simulate("run")
    points = list(first.run(silently))
    first.close()
    again = simulate("run")
    heard = []

    assert list(again.run(heard.append)) == points
    assert heard == []


def test_the_seeds_decide_everything(simulate):
    first, same = simulate("first", VARIED), simulate("same", VARIED)
    other = simulate("other", {**VARIED, "seed": 1})
    curves = [list(run.run(silently)) for run in (first, same, other)]

    assert curves[0] == curves[1] != curves[2]
    assert first.ledger() == same.ledger()
    assert first.ledger() != other.ledger()
    assert first.outcome == same.outcome


@pytest.mark.parametrize("at", [1, 2, 9, 16, 23])
@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
def test_a_simulation_that_dies_goes_on_to_the_same_end(simulate, monkeypatch, dies, tmp_path, at, checkpoint_s):
    """With a checkpoint at every step, and with none but the first."""
    monkeypatch.setattr(module, "CHECKPOINT_S", checkpoint_s)
    whole = simulate("whole", VARIED)
    whole.run(silently)
    mortal = simulate("mortal", VARIED)
    dies(at)
    with pytest.raises(DiedError):
        mortal.run(silently)
    mortal.close()
    monkeypatch.undo()
    shutil.copytree(tmp_path / "mortal", tmp_path / "estate")
    resumed = simulate("estate", VARIED)
    resumed.run(silently)

    assert resumed.ledger() == whole.ledger()
    assert resumed.points == whole.points
    assert resumed.outcome == whole.outcome
    assert (tmp_path / "estate" / "curve.json").read_bytes() == (tmp_path / "whole" / "curve.json").read_bytes()


def test_a_simulation_that_dies_while_its_head_is_initialised_goes_on_too(simulate, monkeypatch, exported, dies):
    def export(spec, source, folder, *_) -> None:
        shutil.copytree(exported, folder.path)
        (folder.path / "head_init").write_text("class-means")

    monkeypatch.setattr(module, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(module, "export_model", export)
    whole = simulate("whole", {"speed_spread": 1.0}, max_devices=6)
    assert whole.run(silently)[0].example_passes > 0
    mortal = simulate("mortal", {"speed_spread": 1.0}, max_devices=6)
    dies(3, "class_sums")
    with pytest.raises(DiedError):
        mortal.run(silently)
    assert mortal.points == []
    mortal.close()
    resumed = simulate("mortal", {"speed_spread": 1.0}, max_devices=6)
    resumed.run(silently)

    assert resumed.ledger() == whole.ledger()
    assert resumed.points == whole.points


def test_an_interrupt_loses_nothing(simulate, monkeypatch):
    """Ctrl-C after each point, heard before the next event: the same run in pieces, without a task measured twice."""
    monkeypatch.setattr(module, "CHECKPOINT_S", 1e9)
    whole = simulate("whole", VARIED)
    whole.run(silently)
    measured = []
    derivatives = Engine.derivatives
    monkeypatch.setattr(
        Engine, "derivatives", lambda self, *task: measured.append(task[2].seeds[0]) or derivatives(self, *task)
    )

    def interrupt(point) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    for version in (0, 2):
        piece = simulate("piece", VARIED)
        with pytest.raises(KeyboardInterrupt):
            piece.run(interrupt)
        assert [point.version for point in piece.points][-1] == version
        piece.close()
    resumed = simulate("piece", VARIED)
    resumed.run(silently)

    assert resumed.ledger() == whole.ledger()
    assert resumed.points == whole.points
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize("damage", ["[]", "[{", None])
def test_the_curve_of_the_store_counts(simulate, tmp_path, damage):
    run = simulate("run")
    run.run(silently)
    run.close()
    file = tmp_path / "run" / "curve.json"
    right = file.read_bytes()
    file.unlink() if damage is None else file.write_text(damage)
    simulate("run").run(silently)

    assert file.read_bytes() == right


def test_a_folder_holds_one_simulation(simulate, place, tmp_path):
    simulate("run", VARIED).close()

    with pytest.raises(BadInputError, match="a simulation with other devices; choose another folder, or continue"):
        simulate("run", {**VARIED, "alpha": 0.6})
    with pytest.raises(BadInputError, match="with another job file;"):
        simulate("run", VARIED, count=5)
    toml = (place / "job.toml").read_text()
    with pytest.raises(BadInputError, match="with other data;"):
        Simulation(toml, place, DataSource(place / "held_out.csv"), Population(devices=6, **VARIED), tmp_path / "run")
    data = DataSource(place / "train.csv")
    Simulation(
        f"# the same\n{job_toml(SIMULATED)}", place, data, Population(devices=6, **VARIED), tmp_path / "run"
    ).close()


def test_one_process_at_a_time(simulate):
    simulate("run")
    with pytest.raises(BusyError, match="another process simulates in"):
        simulate("run")


def test_a_folder_with_other_things_is_left_alone(simulate, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()

    with pytest.raises(BadInputError, match="is not empty and holds no simulation"):
        simulate("run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_what_is_wrong_is_said_before_any_work(place, tmp_path):
    def refused(match, data="train.csv", toml=None, **population) -> None:
        with pytest.raises(BadInputError, match=match):
            Simulation(
                toml or (place / "job.toml").read_text(),
                place,
                DataSource(place / data),
                Population(**{"devices": 6, **population}),
                tmp_path / "run",
            )
        assert not (tmp_path / "run").exists()

    refused("240 rows are too few for 241 devices", devices=241)
    refused("a round of the job needs 3 devices, but only 2 are simulated", devices=2)
    refused("needs the data file's user column", partition="user")
    refused("cannot read the data", data="gone.csv")
    refused(r"label 'law' is not in \[model\] labels", toml=_with_labels(place, ["arts", "sport"]))


def _with_labels(place, labels):
    return (place / "job.toml").read_text().replace('["arts", "law", "sport"]', json.dumps(labels))


def test_a_job_whose_rounds_are_abandoned_fails_each_time(simulate):
    rounds = {"accept_s": 600.0, "deadline_s": 5.0, "max_abandoned": 1}
    for _ in range(2):
        run = simulate("run", {"latency_s": 50.0}, **rounds)
        with pytest.raises(JobFailedError, match="job simulated-tiny failed: 2 rounds in a row were abandoned"):
            run.run(silently)
        assert run.outcome.rounds_abandoned == 2
        run.close()


def test_the_adapter_is_peft_s(simulate, tmp_path):
    run = simulate("run")
    run.run(silently)
    for _ in range(2):
        run.export(tmp_path / "adapter")
    model = PeftModel.from_pretrained(load_base_of(tmp_path / "adapter"), tmp_path / "adapter")

    assert model.peft_config["default"].r == job_spec(SIMULATED).peft.rank
    assert not list(tmp_path.glob(".adapter*"))


def test_a_full_disk_is_told_and_nothing_is_lost(simulate, monkeypatch):
    run = simulate("run")

    def full() -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(run._store, "checkpoint", full)
        with pytest.raises(StorageError):
            run.run(silently)
    run.close()
    again = simulate("run")

    assert [point.version for point in again.run(silently)] == [0, 2, 4]


def test_devices_that_are_never_in_time_for_their_assignments_end_it(simulate):
    run = simulate("run", {"latency_s": 100_000.0}, accept_s=50_000.0)
    with pytest.raises(JobFailedError, match="raise accept_s if they fetch their assignments too late"):
        run.run(silently)
