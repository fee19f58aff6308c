"""The simulated devices: their rows, speeds and availability, all drawn from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fwdllm_client.data import Dataset
from fwdllm_client.data.split import RowIndices, split
from fwdllm_common.errors import BadInputError
from fwdllm_server.simulation import shards
from fwdllm_server.simulation.attacks import Attack

SLOT_S = 60.0
"""Simulated seconds after which the availability of each device is drawn anew."""

Partition = Literal["iid", "dirichlet", "user"]


class Population(BaseModel):
    """The distribution that the simulated devices are drawn from.

    ``partition``: ``iid``; ``dirichlet`` with concentration ``alpha`` over the labels (Hsu et al. 2019); ``user``: one
    device for each user of the data file. ``rows_per_device`` bounds a device's rows; 0 means no bound.

    Speeds are log-normal: the median is ``passes_per_s`` example-passes a second, and ``speed_spread`` the standard
    deviation of the logarithm. A device is available in each minute with probability ``availability``. It drops out of
    an assignment with probability ``dropout_rate``. A message takes ``latency_s`` in each direction. A fraction
    ``byzantine`` of the devices sends false scalars, which ``attack`` derives from the measured ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    devices: int = Field(default=100, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    partition: Partition = "iid"
    alpha: float = Field(default=1.0, gt=0)
    rows_per_device: int = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    passes_per_s: float = Field(default=50.0, gt=0)
    speed_spread: float = Field(default=0.0, ge=0)
    latency_s: float = Field(default=0.1, ge=0)
    availability: float = Field(default=1.0, gt=0, le=1)
    dropout_rate: float = Field(default=0.0, ge=0, lt=1)
    byzantine: float = Field(default=0.0, ge=0, lt=1)
    attack: Attack = "flip"

    def check(self, rows: int, has_users: bool) -> None:
        """Check that a data file can be divided among the devices.

        :param rows: number of its rows.
        :param has_users: whether the user of each row is known.
        :raises BadInputError: the file cannot be divided.
        """
        if self.partition == "user":
            if not has_users:
                raise BadInputError("a partition by user needs the data file's user column")
        elif rows < self.devices:
            raise BadInputError(f"{rows} rows are too few for {self.devices} devices; simulate fewer")

    def draw(self, dataset: Dataset, labels: Sequence[str], users: Sequence[str] | None = None) -> list[VirtualDevice]:
        """Draw the devices. Devices without a row to learn from are left out. ``users`` names the user of each row.

        :raises BadInputError: fewer rows than devices, or a partition by user without users.
        """
        self.check(len(dataset), users is not None)
        generator = self.generator("devices")
        parts = self._shards(dataset, users, generator)
        speeds = self.passes_per_s * np.exp(self.speed_spread * generator.standard_normal(len(parts)))
        devices = []
        liars = self.generator("liars").permutation(len(parts))[: round(self.byzantine * len(parts))]
        for number, (rows, speed) in enumerate(zip(parts, speeds, strict=True)):
            kept = rows[: self.rows_per_device] if self.rows_per_device else rows
            training, validation = (kept[part] for part in split(len(kept), self.validation_fraction))
            training = training[dataset.learnable(training)]
            if len(training):
                own = frozenset(labels[index] for index in dataset.classes(kept)) if labels else frozenset()
                attack = self.attack if number in liars else None
                devices.append(
                    VirtualDevice(f"sim-{number:07}", np.sort(training), validation, float(speed), own, attack)
                )
        return devices

    def present(self, slot: int, devices: int) -> NDArray[np.bool_]:
        """Return which of ``devices`` are available in a minute of the simulation, bool ``[devices]``."""
        if self.availability == 1:
            return np.ones(devices, dtype=np.bool_)
        draws: NDArray[np.bool_] = self.generator("present", slot).random(devices) < self.availability
        return draws

    def vanishes(self, assignment_id: str) -> float | None:
        """Return the fraction of an assignment's duration after which its device drops out; None if it does not."""
        if self.dropout_rate == 0:
            return None
        draws = self.generator("vanish", *assignment_id.encode()).random(2)
        return float(draws[1]) if draws[0] < self.dropout_rate else None

    def generator(self, purpose: str, *numbers: int) -> np.random.Generator:
        """Return a random generator for one purpose, whose name has 8 characters at most."""
        words = np.frombuffer(purpose.encode().ljust(8, b"\0"), dtype="<u4")
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *map(int, words), *numbers])))

    def _shards(
        self, dataset: Dataset, users: Sequence[str] | None, generator: np.random.Generator
    ) -> Sequence[RowIndices]:
        if self.partition == "iid":
            return shards.iid(len(dataset), self.devices, generator)
        if self.partition == "dirichlet":
            if dataset.labels.shape != (len(dataset),) or dataset.labels.dtype.kind != "i":
                raise BadInputError(
                    "a dirichlet partition needs rows with one label of several each; choose iid, or user"
                )
            return shards.dirichlet(dataset.labels, self.devices, self.alpha, generator)
        assert users is not None
        return shards.by_user(users, self.devices)


@dataclass(frozen=True, eq=False)
class VirtualDevice:
    """One simulated device: its rows of the shared dataset, its speed in example-passes a second, its labels.

    ``attack`` is what it does to its scalars; None for an honest device.
    """

    id: str
    training: RowIndices
    validation: RowIndices
    passes_per_s: float
    labels: frozenset[str]
    attack: Attack | None = None
