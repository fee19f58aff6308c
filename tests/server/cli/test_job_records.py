"""What became of each version, and what a job runs, as commands print it."""

from __future__ import annotations

import csv


async def test_the_history_as_a_table_as_csv_and_as_json(stage, cli):
    shown = (await cli("job", "history", "news")).out.splitlines()
    assert shown[0].split()[:3] == ["VERSION", "ROUND", "DIRECTIONS"]
    assert shown[1].split() == ["0", "-", "0", "-", "-", "-", "0.25", "1.5", "-"]
    rows = list(csv.DictReader((await cli("job", "history", "news", "--csv")).out.splitlines()))
    assert [(row["version"], row["accuracy"], row["variance"], row["reason"]) for row in rows] == [
        ("0", "0.25", "", ""),
        ("1", "", "0.5", "enough"),
    ]
    document = (await cli("job", "history", "news", "--json")).json
    assert document["versions"][0]["evaluation"]["accuracy"] == 0.25
    assert document["versions"][1]["evaluation"] is None


async def test_one_format_at_a_time(stage, cli):
    result = await cli("job", "history", "news", "--json", "--csv")
    assert result.code == 2
    assert "say --json or --csv, not both" in result.err


async def test_a_job_without_a_model_has_no_history(stage, cli):
    stage.service.versions = []
    assert (await cli("job", "history", "news")).out == "job news has no model yet\n"
    assert (await cli("job", "history", "news", "--csv")).out.startswith("version,round,")


async def test_what_runs(stage, cli):
    assert (await cli("job", "spec", "news")).out == 'job.name = "news"\nmodel.labels = ["no", "yes"]\n'
    document = (await cli("job", "spec", "news", "--json")).json
    assert document["resolved"]["job"] == {"name": "news"}
    assert (document["spec_toml"], document["base_folder"]) == ("[job]", "/srv")
