"""The tasks' rows: none in two parts, and the same on every machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks.convergence.tasks import TASKS, TaskFiles, available, prepare, read_rows


def texts(files: TaskFiles, part: str) -> list[str]:
    return [row.text for row in read_rows(getattr(files, part))]


def test_bbc_news_needs_no_data(tmp_path: Path) -> None:
    files = prepare(TASKS["bbc_news"], None, tmp_path)
    facts = {part: fact["rows"] for part, fact in files.facts.items()}  # type: ignore[index]
    assert facts == {"devices": 1602, "validation": 178, "curve": 445, "test": 445}
    assert {row.label for row in read_rows(files.training)} == set(TASKS["bbc_news"].labels)
    again = prepare(TASKS["bbc_news"], None, tmp_path / "again")
    assert again.facts == files.facts
    quick = prepare(TASKS["bbc_news"], None, tmp_path / "quick", quick=True)
    assert texts(quick, "training") == texts(files, "training")[:200]
    assert (quick.max_tokens, quick.devices) == (32, 10)


def test_ag_news_takes_one_source_and_the_official_test(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ag_news"
    folder.mkdir(parents=True)
    with (folder / "train_subset.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "text", "source"))
        writer.writerows((index % 4 + 1, f"text {index}", "lst11111") for index in range(4990))
        writer.writerow((1, "other", "keaml_train"))
    with (folder / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows((index % 4 + 1, f"title {index}", "and more") for index in range(2000))
    files = prepare(TASKS["ag_news"], tmp_path / "data", tmp_path / "files")
    assert len(texts(files, "training")) == 4490
    assert not set(texts(files, "training")) & set(texts(files, "validation"))
    assert "other" not in texts(files, "training") + texts(files, "validation")
    assert texts(files, "curve") == texts(files, "test")[:1900]
    assert all(text.endswith(" and more") for text in texts(files, "test"))


def test_a_user_of_the_airline_tweets_is_in_one_part_only(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "twitter_airline"
    folder.mkdir(parents=True)
    with (folder / "tweets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "airline", "label", "text"))
        writer.writerows(
            (f"u{user}", "x", tweet % 3, f"{user} {tweet}") for user in range(50) for tweet in range(user % 6)
        )
    files = prepare(TASKS["twitter_airline"], tmp_path / "data", tmp_path / "files")
    parts = [{row.user for row in read_rows(file)} for file in (files.training, files.validation, files.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert min(files.users.count(user) for user in parts[0]) >= 3


def test_yelp_sentences_are_labelled_by_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "yelp_sentences"
    folder.mkdir(parents=True)
    for part, rows in (("test", 3600), ("dev", 2100)):
        for label, word in (("0", "bad"), ("1", "good")):
            (folder / f"sentiment.{part}.{label}").write_text("".join(f"{part} {word} {i}\n" for i in range(rows)))
    files = prepare(TASKS["yelp_sentences"], tmp_path / "data", tmp_path / "files")
    rows = read_rows(files.training) + read_rows(files.validation)
    assert len(rows) == 7000
    assert all(row.text.startswith("test") and ("good" in row.text) == (row.label == "1") for row in rows)
    assert len(texts(files, "test")) == 4000


def test_missing_data_is_named(tmp_path: Path) -> None:
    assert not available(TASKS["ag_news"], tmp_path)
    with pytest.raises(FileNotFoundError, match="AG News is not at hand; say DATA="):
        prepare(TASKS["ag_news"], None, tmp_path)


def test_clinc150_numbers_its_intents_and_knows_their_domains(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "clinc150"
    folder.mkdir(parents=True)
    parts = {part: [["how far", "distance"], ["pay it", "bill"]] for part in ("train", "val", "test")}
    (folder / "data_full.json").write_text(json.dumps({**parts, "oos_test": [["who", "oos"]]}))
    (folder / "domains.json").write_text(json.dumps({"travel": ["distance"], "banking": ["bill"]}))
    splits = TASKS["clinc150"].read(folder)
    assert sorted((row.text, row.label, row.user) for row in splits.devices) == [
        ("how far", "1", "travel"),
        ("pay it", "0", "banking"),
    ]
    assert len(splits.test) == len(splits.validation) == 2
    assert len(TASKS["clinc150"].labels) == 150


def test_sms_spam_joins_a_message_with_a_line_break(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "sms_spam"
    folder.mkdir(parents=True)
    lines = ["ham\tfirst", "re though", *(f"spam\tnumber {number}" for number in range(1600))]
    (folder / "SMSSpamCollection").write_text("\n".join(lines) + "\n")
    splits = TASKS["sms_spam"].read(folder)
    texts = [row.text for part in (splits.devices, splits.validation, splits.test) for row in part]
    assert len(texts) == 1601
    assert "first re though" in texts
