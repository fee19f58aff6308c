"""The owner's privacy policy: the fewest rows over which scalars and sums of features are computed.

See docs/security.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwdllm_common.errors import BadInputError
from fwdllm_common.protocol import FEATURE_SUMS, MIN_CLASS_ROWS

USUAL = 8
"""Distinct rows, unless the owner sets another minimum."""


@dataclass(frozen=True)
class LeastRows:
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
