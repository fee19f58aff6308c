"""What is run: 40 rounds that train a mean-pooled head on BBC News, by defence and attack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from benchmarks.convergence.jobs import job_of, to_toml
from benchmarks.convergence.methods import Method
from benchmarks.convergence.tasks import TaskFiles
from fwdllm_client.tasks.classification import DataSource
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.simulation.attacks import Attack
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.simulation import Simulation

Behaviour: TypeAlias = Attack | Literal["none"]
HONEST: Final = "none"
ATTACKS: tuple[Attack, ...] = ("flip", "flip-large", "large", "random", "constant", "nan")
BYZANTINE = 0.2
ALPHA = 0.5
_DEVICES = 20
_ROUNDS, _DIRECTIONS = 40, 1020


@dataclass(frozen=True)
class Defence:
    """A job's ``robust.clip`` and ``devices_per_direction``, with as many scalars in a round whatever it is."""

    title: str
    clip: float
    devices: int


DEFENCES = {
    "off": Defence("no defence", 0.0, 1),
    "clip": Defence("clipped, reputations (default)", 3.0, 1),
    "three": Defence("clipped, median of 3", 3.0, 3),
}
_CELLS: Mapping[str, tuple[Behaviour, ...]] = {
    "clip": (HONEST, *ATTACKS),
    "off": ("flip", "large"),
    "three": (HONEST, "flip"),
}
"""What the devices that lie do, by defence: two attacks are enough to compare the other defences."""


@dataclass(frozen=True)
class Run:
    """One cell of the table."""

    defence: str
    attack: Behaviour
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.defence}.{self.attack}.{self.seed}"


def all_runs(seeds: int) -> list[Run]:
    """Return every cell with the first seed, then every cell with the next."""
    return [
        Run(defence, attack, seed)
        for seed in range(1, seeds + 1)
        for defence, attacks in _CELLS.items()
        for attack in attacks
    ]


def result_of(run: Run, files: TaskFiles, folder: Path, *, quick: bool, threads: int) -> Mapping[str, Any]:
    """Accuracy on the test rows after the last round; made once and kept in ``folder``."""
    kept = folder / f"{run.name}.json"
    if not kept.exists():
        place, model = folder / run.name, JobFolder(folder / f"model.{run.seed}")
        population = Population(
            devices=files.devices if quick else _DEVICES,
            seed=run.seed,
            partition="dirichlet",
            alpha=ALPHA,
            byzantine=0.0 if run.attack == HONEST else BYZANTINE,
            attack="flip" if run.attack == HONEST else run.attack,
        )
        job, source = to_toml(_job(run, files, quick=quick)), DataSource(files.training)
        known = model if model.path.exists() else None
        with Simulation(job, files.folder, source, population, place, None, threads, known) as simulation:
            points = simulation.run(lambda _point: None)
            found = {
                "accuracy": points[-1].accuracy,
                "directions": points[-1].directions,
                **asdict(simulation.outcome),
            }
        if known is None:  # with what devices cache of it: half of the time
            (place / "model").rename(model.path)
        kept.write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(place)
    result: Mapping[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def _job(run: Run, files: TaskFiles, *, quick: bool) -> dict[str, Any]:
    defence = DEFENCES[run.defence]
    rounds, directions = (3, 192) if quick else (_ROUNDS, _DIRECTIONS)
    changes = {
        "model.pooling": "mean",
        "blocks.head.learning_rate": 0.05,
        "rounds.count": rounds,
        "rounds.min_devices": 3,
        "rounds.evaluate_every": 0,
        "robust.clip": defence.clip,
        "blocks.head.directions": directions // defence.devices,
        "blocks.head.devices_per_direction": defence.devices,
    }
    return job_of(Method("byzantine", "layer-means-4096", changes), files, run.seed, files.curve.name)
