"""What the jobs of this folder need: questions for devices and coordinator, both models, and the jobs beside them."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.materials import link, minilm_folder, smollm2_file, thinned
from fwdllm_client.tasks.question_answering import QuestionSource
from fwdllm_client.tasks.question_answering.rows import COLUMNS

JOBS = ("minilm.toml", "smollm2.toml")


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", type=Path, help="JSON: SQuAD's format, or a list of context, question and answer")
    parser.add_argument("held_out", type=Path, help="likewise; no context of it may be among the training ones")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("question-answering-output"))
    parser.add_argument("--rows", type=int, default=480, help="questions on the devices")
    parser.add_argument("--held-out-rows", type=int, default=170, help="questions on the coordinator")
    arguments = parser.parse_args()
    training, held_out = read(arguments.training), read(arguments.held_out)
    if both := {row["context"] for row in training} & {row["context"] for row in held_out}:
        raise SystemExit(f"{len(both)} contexts are in both files; hold others out")
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", thinned(training, arguments.rows))
    write(folder / "held_out.jsonl", thinned(held_out, arguments.held_out_rows))
    link(folder / "minilm", minilm_folder())
    link(folder / "smollm2.gguf", smollm2_file())
    for job in JOBS:
        shutil.copy(Path(__file__).with_name(job), folder / job)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON file. An answer without a place is where the context has it first."""
    value = json.loads(file.read_bytes())
    if not isinstance(value, list):
        rows = QuestionSource(file).rows()
        return [dict(zip(COLUMNS, (row.question, row.context, row.starts, row.answers), strict=True)) for row in rows]
    found = [{**row, "answer_start": row["context"].find(row["answer"])} for row in value]
    return [{column: row[column] for column in COLUMNS} for row in found if row["answer_start"] >= 0]


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one row a line, as JSON."""
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
