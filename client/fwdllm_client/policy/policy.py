"""What the owner of a device allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fwdllm_common.errors import BadInputError
from fwdllm_common.protocol import FEATURE_SUMS, MIN_CLASS_ROWS


@dataclass(frozen=True)
class Policy:
    """``class_rows`` is of how many rows of a class, at least, a sum of features may be sent; None allows none at all.

    :raises BadInputError: it is below :data:`MIN_CLASS_ROWS`.
    """

    class_rows: int | None = None

    def __post_init__(self) -> None:
        if self.class_rows is not None and self.class_rows < MIN_CLASS_ROWS:
            raise BadInputError(
                f"sums of features over {self.class_rows} rows say too much of each; allow {MIN_CLASS_ROWS} or more"
            )

    @property
    def capabilities(self) -> Sequence[str]:
        """What the device tells its coordinator that it may be asked for."""
        return () if self.class_rows is None else (FEATURE_SUMS,)
