"""The owner's privacy policy: what may be asked of the device's rows (docs/privacy.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwdllm_common.errors import BadInputError, NotAllowedError
from fwdllm_common.fixed_point import MAX_DIRECTIONS
from fwdllm_common.protocol import FEATURE_SUMS, MIN_CLASS_ROWS

MIN_COHORT = 8
"""Devices whose masked scalars are summed, unless the owner sets another minimum."""
USUAL = 8
"""Distinct rows, unless the owner sets another minimum."""


@dataclass(frozen=True)
class MinBatchRows:
    """A minimum of distinct rows; a device with fewer uses all of its rows, unless its owner has ``insisted``."""

    minimum: int = USUAL
    insisted: bool = False

    def of(self, distinct: int) -> int:
        """Return the minimum for a device with ``distinct`` distinct training rows."""
        return self.minimum if self.insisted else min(self.minimum, distinct)

    def is_shortened_for(self, rows: int) -> bool:
        """Return whether a device with ``rows`` training rows falls short of the minimum and uses all of them."""
        return self.of(rows) < self.minimum

    @property
    def description(self) -> str:
        """The minimum in words, for the device's owner."""
        otherwise = "" if self.insisted else ", or over all of a device with fewer"
        return f"{self.minimum} distinct rows or more{otherwise}"


@dataclass(frozen=True)
class Privacy:
    """The section ``[privacy]`` of the owner's settings.

    A scalar is over ``min_batch_rows``; a block is measured along at most ``max_directions`` at one θ of a job; masked
    scalars are summed over ``min_cohort`` devices or more; a job learns only ``labels``, None for any.
    """

    min_batch_rows: MinBatchRows = MinBatchRows()
    max_directions: int = MAX_DIRECTIONS
    min_cohort: int = MIN_COHORT
    labels: frozenset[str] | None = None

    def check_labels(self, asked: Sequence[str]) -> None:
        """Check that a job learns no other labels than those that the owner allows.

        :raises NotAllowedError: it learns another one.
        """
        if self.labels is not None and (others := [label for label in asked if label not in self.labels]):
            raise NotAllowedError(f"it learns the label {others[0][:64]!r}, which this device's owner has not allowed")

    @property
    def description(self) -> str:
        """All of it in words, for the device's owner."""
        labels = "any labels" if self.labels is None else f"the labels {', '.join(sorted(self.labels))} alone"
        return (
            f"every scalar is over {self.min_batch_rows.description}; at most {self.max_directions} directions of a "
            f"block at one θ; jobs with {labels}; jobs with secure aggregation read sums over {self.min_cohort} "
            "devices or more, all others this device's own scalars, from which they can infer the gradient of its rows"
        )


@dataclass(frozen=True)
class Policy:
    """The fewest rows of a class whose sum of features may be sent, ``class_rows``; None forbids such sums.

    :raises BadInputError: the number is below :data:`MIN_CLASS_ROWS`.
    """

    class_rows: int | None = None

    def __post_init__(self) -> None:
        if self.class_rows is not None and self.class_rows < MIN_CLASS_ROWS:
            raise BadInputError(
                f"sums of features over {self.class_rows} rows reveal too much of each; allow {MIN_CLASS_ROWS} or more"
            )

    @property
    def capabilities(self) -> Sequence[str]:
        """The capabilities that the device announces to its coordinator."""
        return () if self.class_rows is None else (FEATURE_SUMS,)
