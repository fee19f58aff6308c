"""The pages of ``docs/errors`` that the command ``explain`` of both programs prints. A wheel includes them."""

from __future__ import annotations

from pathlib import Path

from fwdllm_common.errors import BadInputError

_INSTALLED = Path(__file__).parent / "error_pages"
_REPOSITORY = Path(__file__).parents[2] / "docs" / "errors"
_INDEX = "index"


def page(code: str | None) -> str:
    """Return the page about an error's code, Markdown; without a code, the table of all codes.

    :raises BadInputError: no error has this code.
    """
    folder = _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY
    pages = {path.stem: path for path in folder.glob("*.md")}
    found = pages.get(code or _INDEX)
    if found is None:
        known = ", ".join(sorted(pages.keys() - {_INDEX}))
        raise BadInputError(f"no error has the code {code!r}; the codes are {known}")
    return found.read_text(encoding="utf-8").rstrip()
