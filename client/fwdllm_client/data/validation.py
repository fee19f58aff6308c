"""The number of validation rows; without numpy, because an idle device needs it."""

from __future__ import annotations

from fwdllm_common.errors import BadInputError


def validation_count(row_count: int, validation_fraction: float) -> int:
    """Return the rounded fraction of the rows: at least 1 if the fraction is above 0, and at most all rows but one.

    :raises BadInputError: the fraction is not in [0, 1).
    """
    if not 0 <= validation_fraction < 1:
        raise BadInputError(f"validation fraction {validation_fraction} is not in [0, 1); 0.1 is usual")
    wanted = max(1, round(row_count * validation_fraction)) if validation_fraction > 0 else 0
    return min(wanted, max(row_count - 1, 0))
