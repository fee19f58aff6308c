"""The data sets' own files, read and split: the same rows in the same order on every machine.

Only BBC News may be passed on; the others are read from a folder that the user names.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from fwdllm_server.cli.demo.bbc_news import load

CLINC_INTENTS = 150
SMS_LABELS = ("ham", "spam")
_AG_SOURCE = "lst11111"
_SPLIT_SEED = 0
_MIN_TWEETS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One text with its label, and whose it is where that is known."""

    text: str
    label: str
    user: str = ""


@dataclass(frozen=True)
class Splits:
    """Rows for the devices, for choosing settings, and for the report; no row is in two of them."""

    devices: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]

    def cut(self, devices: int, validation: int, test: int) -> Splits:
        """Return the first rows of each part."""
        return Splits(self.devices[:devices], self.validation[:validation], self.test[:test])


Reader: TypeAlias = Callable[[Path], Splits]


def bbc_news(_: Path) -> Splits:
    """2,225 articles in five topics: 445 test, 178 validation, 1,602 for devices."""
    rows = _shuffled([Row(article.text, article.label) for article in load()])
    return Splits(devices=rows[623:], validation=rows[445:623], test=rows[:445])


def ag_news(folder: Path) -> Splits:
    """Of the training subset the 4,990 balanced rows of one source; the official 7,600 test rows."""
    with (folder / "train_subset.csv").open(encoding="utf-8", newline="") as file:
        rows = [Row(row["text"], row["label"]) for row in csv.DictReader(file) if row["source"] == _AG_SOURCE]
    with (folder / "test.csv").open(encoding="utf-8", newline="") as file:
        test = [Row(f"{title} {description}", label) for label, title, description in csv.reader(file)]
    rows = _shuffled(rows)
    return Splits(devices=rows[:4490], validation=rows[4490:], test=_shuffled(test))


def yelp_sentences(folder: Path) -> Splits:
    """5,500 and 1,500 sentences of the files called test, since the training files are not there; 4,000 of dev."""
    rows = _shuffled(list(_sentences(folder, "test")))
    return Splits(
        devices=rows[:5500], validation=rows[5500:7000], test=_shuffled(list(_sentences(folder, "dev")))[:4000]
    )


def twitter_airline(folder: Path) -> Splits:
    """Whole users: a fifth for the test, a tenth for validation, of the others those with 3 tweets or more."""
    with (folder / "tweets.csv").open(encoding="utf-8", newline="") as file:
        rows = [Row(row["text"], row["label"], row["user"]) for row in csv.DictReader(file)]
    users = _shuffled(sorted({row.user for row in rows}))
    test, validation = set(users[: len(users) // 5]), set(users[len(users) // 5 : len(users) * 3 // 10])
    rows = _shuffled(rows)
    tweets = Counter(row.user for row in rows)
    return Splits(
        devices=[row for row in rows if row.user not in test | validation and tweets[row.user] >= _MIN_TWEETS],
        validation=[row for row in rows if row.user in validation],
        test=[row for row in rows if row.user in test],
    )


def clinc150(folder: Path) -> Splits:
    """15,000 questions of 150 intents, 100 of each, as they were split; labels count the intents in their order.

    The user of a row is the intent's domain, of which there are ten. Questions outside the intents are left out.
    """
    data = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    numbers = {intent: str(number) for number, intent in enumerate(sorted(domain_of))}
    parts = {
        part: _shuffled([Row(text, numbers[intent], domain_of[intent]) for text, intent in data[part]])
        for part in ("train", "val", "test")
    }
    return Splits(devices=parts["train"], validation=parts["val"], test=parts["test"])


def sms_spam(folder: Path) -> Splits:
    """5,574 messages, 13 % of them spam: 1,000 test, 500 validation, 4,074 for devices."""
    rows: list[Row] = []
    for line in (folder / "SMSSpamCollection").read_text(encoding="utf-8").splitlines():
        label, tab, text = line.partition("\t")
        if tab and label in SMS_LABELS:
            rows.append(Row(text, label))
        elif rows:  # one message holds a line break
            rows[-1] = Row(f"{rows[-1].text} {line}", rows[-1].label)
    rows = _shuffled(rows)
    return Splits(devices=rows[1500:], validation=rows[1000:1500], test=rows[:1000])


def _sentences(folder: Path, part: str) -> Iterator[Row]:
    for label in ("0", "1"):
        lines = (folder / f"sentiment.{part}.{label}").read_text(encoding="utf-8").splitlines()
        yield from (Row(line.strip(), label) for line in lines if line.strip())


def _shuffled(items: Sequence[T]) -> list[T]:
    shuffled = list(items)
    random.Random(_SPLIT_SEED).shuffle(shuffled)  # noqa: S311, not for secrets
    return shuffled
