"""What of a job's file goes into the card."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_job import job_toml

from fwdllm_server.config.job import JobSpec
from fwdllm_server.store import jobs
from fwdllm_server.store.database import Database
from fwdllm_server.views.model_card import model_card


@pytest.mark.parametrize("hub", [False, True])
def test_paths_lose_their_folders_and_all_else_stays(tmp_path: Path, hub: bool) -> None:
    local = tmp_path / "models" / "encoder"
    local.mkdir(parents=True)
    source = "someone/encoder" if hub else str(local)
    changes: dict[str, Any] = {
        "model": {"source": source, "labels": ['a "quoted" one', "ümlaut"]},
        "held_out": {"file": str(tmp_path / "secret" / "rows.csv")},
    }
    card = card_of(job_toml(changes), tmp_path)
    assert str(tmp_path) not in card
    found = tomllib.loads(card.partition("```toml\n")[2].partition("```")[0])
    expected = tomllib.loads(job_toml(changes))
    expected["model"]["source"] = "someone/encoder" if hub else "encoder"
    expected["held_out"]["file"] = "rows.csv"
    assert found == expected
    assert ('base_model: "someone/encoder"' in card) is hub


def card_of(toml: str, folder: Path) -> str:
    template = folder / "template"
    (template / "base").mkdir(parents=True)
    (template / "base" / "config.json").write_text("{}")
    database = Database(f"sqlite:///{folder / 'store.db'}")
    try:
        with database.transaction() as connection:
            jobs.add(connection, "job1", JobSpec.model_validate(tomllib.loads(toml)), toml, folder, 0.0)
            record = jobs.get(connection, "job1")
            assert record is not None
            return model_card(connection, record, template, 0.0, "a command")
    finally:
        database.close()
