"""Your own model and CSV as a job: rows for devices, rows held out for the coordinator, and the job file."""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path

_LEAST_ROWS = 20
JOB = """\
[job]
name = {name}

[model]
source = {source}
labels = {labels}
max_tokens = {max_tokens}

[held_out]
file = "held_out.csv"
text_column = {text_column}
label_column = {label_column}

[rounds]
count = {rounds}
min_devices = 1
"""


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, help="labelled texts, with a heading")
    parser.add_argument("--model", required=True, help="a folder, or a hub id, of an encoder that transformers load")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("own-output"))
    arguments = parser.parse_args()
    with arguments.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = (arguments.text_column, arguments.label_column)
    if missing := [column for column in wanted if not rows or column not in rows[0]]:
        raise SystemExit(f"{arguments.csv}: no column {missing[0]!r}; name it with --text-column or --label-column")
    if len(rows) < _LEAST_ROWS:
        raise SystemExit(f"{arguments.csv}: {len(rows)} rows are too few to learn from and to hold some out")
    random.Random(0).shuffle(rows)  # noqa: S311 - the same split each time
    held_out = len(rows) // 5
    arguments.out.mkdir(parents=True, exist_ok=True)
    _write(arguments.out / "held_out.csv", rows[:held_out])
    _write(arguments.out / "devices.csv", rows[held_out:])
    source = arguments.model
    if Path(source).is_dir():
        shutil.copytree(source, arguments.out / "model", dirs_exist_ok=True)
        source = "model"
    facts = {
        "name": arguments.csv.stem,
        "source": source,
        "labels": sorted({row[arguments.label_column] for row in rows}),
        "max_tokens": arguments.max_tokens,
        "text_column": arguments.text_column,
        "label_column": arguments.label_column,
        "rounds": arguments.rounds,
    }
    # JSON's strings, numbers and lists are TOML's too.
    (arguments.out / "job.toml").write_text(JOB.format(**{key: json.dumps(value) for key, value in facts.items()}))
    print(
        f"{arguments.out}: {held_out} rows held out, {len(rows) - held_out} for devices, {len(facts['labels'])} labels"
    )


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
