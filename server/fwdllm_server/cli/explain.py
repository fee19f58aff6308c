"""``fwdllm-server explain``: explain an error and its remedies."""

from __future__ import annotations

from typing import Annotated

import typer

from fwdllm_common.explain import page


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="The code in error[…]; without it, all codes are explained.")
    ] = None,
) -> None:
    """Explain an error by its code. Each error message contains its code."""
    print(page(code))
