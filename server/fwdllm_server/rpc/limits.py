"""Check the bounds of message fields. Nothing that arrives is trusted."""

from __future__ import annotations

import re

from fwdllm_common.errors import BadInputError

MAX_ENROLMENT_BYTES = 16 << 10
"""Size in bytes of the largest message on the enrolment port, which anyone can reach."""

MAX_CERTIFICATE_REQUEST_BYTES = 4096
MAX_TOKEN_LIFETIME_S = 2_592_000

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def bounded(field: str, value: str | bytes, longest: int, shortest: int = 1) -> None:
    """Refuse a text or bytes ``field`` whose length, in characters or bytes, is out of bounds.

    :raises BadInputError: the length is out of bounds; the message names the field, its length and the bounds.
    """
    if not shortest <= len(value) <= longest:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        wanted = str(longest) if shortest == longest else f"{shortest} to {longest}"
        raise BadInputError(f"{field} has {len(value)} {unit}; {wanted} are allowed")


def in_range(field: str, value: float, lowest: float, highest: float) -> None:
    """Refuse a number that is out of bounds or NaN.

    :raises BadInputError: the number is out of bounds; the message names the field, its value and the bounds.
    """
    if not lowest <= value <= highest:
        raise BadInputError(f"{field} is {value}; {lowest} to {highest} are allowed")


def plain_name(field: str, value: str) -> None:
    """Refuse a name that is not 1 to 64 of the characters a-z A-Z 0-9 . _ -

    :raises BadInputError: the name is invalid; the message names the field.
    """
    if not _NAME.fullmatch(value):
        raise BadInputError(f"{field} {value[:80]!r} is not a valid name; use 1 to 64 of a-z A-Z 0-9 . _ -")
