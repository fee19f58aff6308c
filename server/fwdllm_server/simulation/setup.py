"""Check a simulation's data, and that its folder belongs to the same simulation."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from fwdllm_client.data import Dataset, Source
from fwdllm_common.errors import BadInputError
from fwdllm_common.files import storage_error
from fwdllm_server.config.job import JobSpec
from fwdllm_server.preparation.evaluation import check_rows
from fwdllm_server.simulation.population import Population
from fwdllm_server.simulation.store import SimulationStore
from fwdllm_server.tasks import task_named

_FACT = "setup"


def check_data(spec: JobSpec, data: Source, population: Population, has_users: bool) -> None:
    """Check the devices' rows before any work is done.

    :raises BadInputError: the rows are invalid, or do not fit the job or the population.
    """
    if not task_named(spec.model.task).is_class and population.partition == "dirichlet":
        raise BadInputError(
            f"a Dirichlet partition needs labels, which {spec.model.task} does not have; use iid or user"
        )
    population.check(check_rows(spec, data), has_users)
    if population.devices < spec.rounds.min_devices:
        raise BadInputError(
            f"a round of the job needs {spec.rounds.min_devices} devices, but only {population.devices} are simulated; "
            "simulate more or lower [rounds] min_devices"
        )


def begin_folder(folder: Path) -> None:
    """Create the folder of a new simulation.

    :raises BadInputError: the folder contains other files.
    :raises StorageError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(file.name != "lock" for file in folder.iterdir()):
            raise BadInputError(f"{folder} is not empty and holds no simulation; choose another folder")
    except OSError as error:
        raise storage_error(folder, error) from error


def check_same(
    store: SimulationStore,
    folder: Path,
    texts: tuple[str, str],
    population: Population,
    dataset: Dataset,
    users: Sequence[str] | None,
    is_new: bool,
) -> None:
    """Check that the stored simulation has the same job file, devices and data. Record them in a new store.

    Comments in the job file may differ. Properties of a population that a newer version of fwdllm has added are not
    compared.

    :param texts: the stored job file and the given one.
    :raises BadInputError: the folder contains another simulation.
    """
    devices = population.model_dump(mode="json")
    data = hashlib.sha256("\0".join((dataset.fingerprint, *(users or ()))).encode()).hexdigest()
    if is_new:
        store.keep(_FACT, json.dumps({"devices": devices, "data": data}).encode())
        return
    found = store.fact(_FACT)
    if found is None:
        raise BadInputError(f"{folder} holds a simulation of an earlier version of fwdllm; choose another folder")
    kept = json.loads(found)
    known = devices.keys() & kept["devices"].keys()
    differs = {
        "another job file": tomllib.loads(texts[0]) != tomllib.loads(texts[1]),
        "other devices": any(kept["devices"][key] != devices[key] for key in known),
        "other data": kept["data"] != data,
    }
    if other := [what for what, is_so in differs.items() if is_so]:
        raise BadInputError(
            f"{folder} contains a simulation with {' and '.join(other)}; choose another folder, or continue this one "
            "with its own job file, devices and data"
        )
