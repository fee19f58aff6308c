"""Small files for each task of texts, the model, and a job for each, in one folder.

The sentences are made from lists of words: enough to see each task at work in a minute, and no measure of any.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from examples.materials import link, minilm_folder

NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Edsger Dijkstra", "Barbara Liskov", "Donald Knuth")
CITIES = ("Ghent", "Delft", "York", "New York", "Lisbon", "San Sebastian")
PRAISE = ("lovely", "quiet", "spotless", "friendly", "delicious", "comfortable")
BLAME = ("noisy", "dirty", "rude", "stale", "broken", "cold")
TOPICS = {
    "food": ("the soup was served late", "breakfast had fresh bread", "they cook without salt"),
    "room": ("the bed was soft", "our window did not close", "the shower had no curtain"),
    "staff": ("the porter carried our bags", "nobody was at the desk", "the cleaner knocked at seven"),
}
Rows = Iterable[Mapping[str, object]]


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tasks-output"))
    parser.add_argument("--rows", type=int, default=160, help="rows on the devices; half as many are held out")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", arguments.rows, 1), ("held_out", arguments.rows // 2, 2)):
        for name, rows in ROWS.items():
            choose = random.Random(seed)  # noqa: S311 - the same rows each time
            lines = (json.dumps(row) for row in rows(choose, count))
            (folder / f"{name}-{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        choose = random.Random(seed)  # noqa: S311
        (folder / f"words-{part}.conll").write_text("\n".join(sentences(choose, count)), encoding="utf-8")
    link(folder / "minilm", minilm_folder())
    for job in Path(__file__).parent.glob("*.toml"):
        shutil.copy(job, folder / job.name)


def pairs(choose: random.Random, count: int) -> Rows:
    """Yield a sentence on a hotel and one that says the same of it, the contrary, or something else."""
    for _ in range(count):
        said, label = choose.choice(PRAISE), choose.choice(("same", "contrary", "other"))
        city = choose.choice(CITIES)
        answer = {
            "same": f"The place in {city} is really {said}.",
            "contrary": f"The place in {city} is not {said} at all.",
            "other": f"A train to {choose.choice(CITIES)} leaves at {choose.randint(5, 11)}.",
        }
        yield {"premise": f"Our hotel in {city} was {said}.", "hypothesis": answer[label], "label": label}


def values(choose: random.Random, count: int) -> Rows:
    """Yield reviews with a number from -1 to 1: how much of what they say is praise."""
    for _ in range(count):
        words = [choose.choice(choose.choice((PRAISE, BLAME))) for _ in range(4)]
        value = sum(1 if word in PRAISE else -1 for word in words) / 4
        yield {"text": f"It was {words[0]}, {words[1]} and {words[2]}, and also {words[3]}.", "label": value}


def labels(choose: random.Random, count: int) -> Rows:
    """Yield reviews with the labels of what they are about, of some none."""
    for _ in range(count):
        about = [topic for topic in TOPICS if choose.random() < 1 / 2]
        said = [choose.choice(TOPICS[topic]) for topic in about] or ["we stayed for two nights"]
        yield {"text": f"On our visit {' and '.join(said)}.", "label": about}


def sentences(choose: random.Random, count: int) -> Iterable[str]:
    """Yield the lines of a CoNLL file: a word with its tag, and an empty line after each sentence."""
    for _ in range(count):
        name, city = choose.choice(NAMES), choose.choice(CITIES)
        tagged = [(name, "PER"), ("travelled", ""), ("to", ""), (city, "LOC"), ("by", ""), ("night", ""), (".", "")]
        if choose.random() < 1 / 2:
            tagged = [("In", ""), (city, "LOC"), ("nobody", ""), ("remembers", ""), (name, "PER"), (".", "")]
        for text, kind in tagged:
            for index, word in enumerate(text.split()):
                yield f"{word} {'O' if not kind else ('I-' if index else 'B-') + kind}"
        yield ""


ROWS: Mapping[str, Callable[[random.Random, int], Rows]] = {"pairs": pairs, "values": values, "labels": labels}


if __name__ == "__main__":
    main()
