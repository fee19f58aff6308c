"""How many of its owner's rows are behind every number that a device tells of them (docs/security.md)."""

from __future__ import annotations

from dataclasses import dataclass

USUAL = 8


@dataclass(frozen=True)
class LeastRows:
    """At least so many distinct rows; a device with fewer takes all that it has, unless its owner has ``insisted``."""

    minimum: int = USUAL
    insisted: bool = False

    def of(self, distinct: int) -> int:
        """The least for a device with so many distinct rows to train on."""
        return self.minimum if self.insisted else min(self.minimum, distinct)

    def is_shortened_for(self, rows: int) -> bool:
        """Whether a device with so many rows has too few for the minimum, and works with all of them."""
        return self.of(rows) < self.minimum

    @property
    def words(self) -> str:
        """For the device's owner."""
        otherwise = "" if self.insisted else ", or over all of a device with fewer"
        return f"{self.minimum} distinct rows or more{otherwise}"
