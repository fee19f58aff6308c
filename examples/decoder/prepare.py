"""What the two jobs of this folder need: rows of BBC News, SmolLM2, and the job files beside them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from examples.materials import link, smollm2_file, thinned
from fwdllm_server.cli.demo.bbc_news import load, split, write_csv

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
    write_csv(folder / "held_out.csv", thinned(held_out, arguments.held_out))
    write_csv(folder / "train.csv", thinned(training, arguments.rows))
    link(folder / "smollm2.gguf", smollm2_file())
    for job in JOBS:
        shutil.copy(Path(__file__).with_name(job), folder / job)


if __name__ == "__main__":
    main()
