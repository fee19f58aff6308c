"""mkdocs' hooks: whole folders in the navigation, and links to files of the repository that are no pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> None:
    """Let an entry of the navigation that ends with a slash stands for every page in the folder, the index first.

    Pages that are in no entry come last.
    """
    nav = _expanded(config["nav"])
    every = {str(path.relative_to(_ROOT / "docs")) for path in (_ROOT / "docs").rglob("*.md")}
    rest = sorted(every - set(_leaves(nav)))
    config["nav"] = [*nav, {"More": rest}] if rest else nav


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for item in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(item)


def _expanded(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_expanded(item) for item in entry for item in (_pages(item) if _is_folder(item) else [item])]
    if isinstance(entry, dict):
        return {name: _pages(item) if _is_folder(item) else _expanded(item) for name, item in entry.items()}
    return entry


def _is_folder(entry: Any) -> bool:
    return isinstance(entry, str) and entry.endswith("/")


def _pages(folder: str) -> list[str]:
    names = sorted(path.name for path in (_ROOT / "docs" / folder).glob("*.md"))
    return [folder + name for name in sorted(names, key=lambda name: name != "index.md")]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a link out of docs/ into the file's path: the site has no such page, the repository no fixed address."""

    def shown(link: re.Match[str]) -> str:
        target = ((_ROOT / "docs" / page.file.src_path).parent / link[2].partition("#")[0]).resolve()
        outside = not target.is_relative_to(_ROOT / "docs") and target.is_relative_to(_ROOT) and target.exists()
        return f"{link[1]} (`{target.relative_to(_ROOT)}`)" if outside else link[0]

    return re.sub(r"\[([^\]]*)\]\(((?:\.\./)+[^)\s]*)\)", shown, markdown)
