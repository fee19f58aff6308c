"""Reviews by users, who differ as users do: some write much, some praise all, and each has a favourite topic.

The sentences are made up, so that the example needs no download; replace ``reviews.csv`` by real ones with the same
three columns. The model is all-MiniLM-L6-v2 from its package, or the folder that is named.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path

from examples.materials import minilm_folder

LABELS = ("negative", "positive")
_TOPICS = ("kettle", "novel", "phone case", "film", "backpack", "album", "lamp", "game")
_PARTS = {
    "negative": ("broke after a week", "is not worth the price", "was a disappointment", "bored me", "arrived damaged"),
    "positive": ("is a joy to use", "was better than I hoped", "is worth every cent", "delighted us all", "works well"),
}
_ENDINGS = ("", " I have had others.", " It came on time.", " My sister has one too.", " The colour is as shown.")
_HELD_OUT = 200


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("sentiment-output"))
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--model", type=Path, help="the folder of another encoder")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)  # noqa: S311 - the same reviews each time
    model = arguments.model or minilm_folder()
    shutil.copytree(model, folder / "model", dirs_exist_ok=True)
    rows = [row for number in range(arguments.users) for row in _reviews(f"user-{number}", draw)]
    _write(folder / "reviews.csv", rows)
    _write(folder / "held_out.csv", [_review("nobody", draw.choice(_TOPICS), 0.5, draw) for _ in range(_HELD_OUT)])
    job = Path(__file__).with_name("job.toml").read_text()
    (folder / "job.toml").write_text(job.replace("count = 60", f"count = {arguments.rounds}"))
    print(f"{folder}: {len(rows)} reviews of {arguments.users} users, {_HELD_OUT} held out")


def _reviews(user: str, draw: random.Random) -> list[dict[str, str]]:
    """Draw the reviews of a user. Few users write much: their numbers of reviews follow a power law."""
    favourite, praise = draw.choice(_TOPICS), draw.betavariate(1.5, 1.0)
    count = min(60, max(6, int(draw.paretovariate(1.2) * 6)))
    topics = [favourite if draw.random() < 0.6 else draw.choice(_TOPICS) for _ in range(count)]
    return [_review(user, topic, praise, draw) for topic in topics]


def _review(user: str, topic: str, praise: float, draw: random.Random) -> dict[str, str]:
    label = "positive" if draw.random() < praise else "negative"
    text = f"This {topic} {draw.choice(_PARTS[label])}.{draw.choice(_ENDINGS)}"
    return {"user": user, "text": text, "label": label}


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("user", "text", "label"))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
