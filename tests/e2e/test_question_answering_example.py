"""The question answering example's own commands and files, made small: the real MiniLM, our rows, scalars alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.documented import words_of

from fwdllm_server.config.job import JobSpec

REPOSITORY = Path(__file__).parents[2]
PAGE = "examples/question_answering/README.md"
SMALL = {
    "max_tokens": "48",
    "layers": "[-1]",
    "count": "2",
    "min_devices": "2",
    "evaluate_every": "1",
    "directions": "8",
    "batch_size": "8",
    "first_round": "2",
}
PEOPLE = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Edsger Dijkstra", "Barbara Liskov", "Donald Knuth")
CONTEXT = "In {year} the letter was written by {name}, and nobody in the town of {town} answered it."


def rows(town: str) -> list[dict[str, str]]:
    contexts = [CONTEXT.format(year=1900 + i, name=name, town=town) for i, name in enumerate(PEOPLE)]
    return [
        {"context": context, "question": "Who wrote the letter?", "answer": name}
        for context, name in zip(contexts, PEOPLE, strict=True)
    ]


def in_squads_format(examples: list[dict[str, str]]) -> dict[str, object]:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": row["answer"],
                    "question": row["question"],
                    "answers": [{"text": row["answer"], "answer_start": row["context"].index(row["answer"])}],
                }
            ],
        }
        for row in examples
    ]
    return {"version": "1.1", "data": [{"title": "letters", "paragraphs": paragraphs}]}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    found = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False)


# Half a minute of a busy core's time, most of it the export.
@pytest.mark.timeout(600)
def test_minilm_learns_from_squads_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training, held_out, folder = Path("TRAINING.json"), Path("HELD_OUT.json"), tmp_path / "question-answering-output"
    training.write_text(json.dumps(rows("Ghent")))
    held_out.write_text(json.dumps(in_squads_format(rows("Delft"))))
    prepare = [sys.executable, *words_of(PAGE, "question_answering.prepare")[1:]]
    again = run(*prepare[:-1], training)
    assert again.returncode != 0
    assert "6 contexts are in both files" in again.stderr
    done = run(*prepare, "--held-out-rows", "4")
    assert done.returncode == 0, done.stderr
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert (first["answer"], first["context"][first["answer_start"] :][:3]) == (PEOPLE[0], "Ada")
    decoder = JobSpec.model_validate(tomllib.loads((folder / "smollm2.toml").read_text()))
    assert Path(decoder.model.resolved_source(folder)).is_file()
    job = folder / "minilm.toml"
    text, found = re.subn(
        f"^({'|'.join(SMALL)}) = .*$", lambda line: f"{line[1]} = {SMALL[line[1]]}", job.read_text(), flags=re.MULTILINE
    )
    assert found > len(SMALL)
    job.write_text(text)
    program = Path(sys.executable).parent / "fwdllm-server"
    monkeypatch.chdir(folder)
    simulated = run(program, *words_of(PAGE, "simulate minilm")[1:], "--devices", "2", "--json")
    assert simulated.returncode == 0, simulated.stderr

    *points, outcome = map(json.loads, simulated.stdout.splitlines())
    assert [point["version"] for point in points] == [0, 1, 2]
    assert all(0 <= point["exact_match"] <= point["accuracy"] <= 1 for point in points)
    assert points[-1]["loss"] != points[0]["loss"]
    assert outcome["rounds_committed"] == 2
    base = json.loads((Path(outcome["adapter"]) / "config.json").read_bytes())["fwdllm"]
    assert base["task"] == "question-answering"
