"""What can be set of a reference; :mod:`methods` says what is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypeAlias

Pooling: TypeAlias = Literal["mean", "layer-means"]


@dataclass(frozen=True)
class RidgeSettings:
    """The penalty is the one of these that is best on the validation rows. ``pooling`` is what the probe reads."""

    pooling: Pooling = "mean"
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0, 3000.0, 10000.0)

    def quick(self) -> Self:
        """Return the same settings for a quick run."""
        return self


@dataclass(frozen=True)
class LogisticSettings:
    """L-BFGS; of the ``inverse_penalties`` on squared weights the best on the validation rows."""

    pooling: Pooling = "mean"
    inverse_penalties: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    iterations: int = 300

    def quick(self) -> Self:
        """Fewer penalties."""
        return replace(self, inverse_penalties=self.inverse_penalties[::3])


@dataclass(frozen=True)
class SgdSettings:
    """SGD on the cross-entropy with a rate falling linearly; of ``rates`` the best on the validation rows."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    epochs: int = 20
    batch_size: int = 32

    def quick(self) -> Self:
        """Fewer epochs."""
        return replace(self, epochs=3)


@dataclass(frozen=True)
class FedSgdSettings:
    """Adam on the coordinator over the mean of the devices' gradients, each of one batch; rates fall as a cosine.

    ``layers`` has negative numbers, which count from the top; None is every layer.
    """

    layers: tuple[int, ...] | None = None
    rank: int = 4
    alpha: int = 8
    rounds: int = 300
    devices: int = 10
    batch_size: int = 8
    learning_rate: float = 0.002
    head_learning_rate: float = 0.01
    evaluations: int = 10

    def quick(self) -> Self:
        """Two rounds of few devices."""
        return replace(self, rounds=2, devices=5, evaluations=2)


@dataclass(frozen=True)
class FedAvgSettings(FedSgdSettings):
    """``epochs`` of Adam on each device's own rows, then the mean of the weights, by rows."""

    rounds: int = 40
    epochs: int = 1


ReferenceSettings: TypeAlias = RidgeSettings | LogisticSettings | SgdSettings | FedSgdSettings | FedAvgSettings

KINDS: Mapping[str, type[ReferenceSettings]] = {
    "ridge": RidgeSettings,
    "logistic": LogisticSettings,
    "sgd-probe": SgdSettings,
    "fedsgd": FedSgdSettings,
    "fedavg": FedAvgSettings,
}


def settings_of(kind: str, changes: Mapping[str, Any], quick: bool) -> ReferenceSettings:
    """Return the settings of a kind of reference, with changes."""
    settings = KINDS[kind](**changes)
    return settings.quick() if quick else settings


def as_json(settings: ReferenceSettings) -> dict[str, Any]:
    """Return the settings as JSON returns them; curves of before there was another pooling say nothing of it."""
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    if found.get("pooling") == "mean":
        del found["pooling"]
    return found
