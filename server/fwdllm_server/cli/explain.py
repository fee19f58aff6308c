"""``fwdllm-server explain``: what an error means and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from fwdllm_common.explain import page


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="The word in error[…]; without it, all of them.")
    ] = None,
) -> None:
    """Say more about an error. Its code is in each message."""
    print(page(code))
