"""Every line of the table of methods is a job file that the coordinator accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmarks.convergence.jobs import job_of, recipe_of, to_toml
from benchmarks.convergence.methods import METHODS, Method, Reference
from benchmarks.convergence.runs import Run, Settings, all_runs, missing_data, population_of
from benchmarks.convergence.settings import settings_of
from benchmarks.convergence.tasks import TASKS, files_of
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.presets import with_preset
from fwdllm_server.config.toml_model import parse_toml

SIMULATED = [method for method in METHODS.values() if isinstance(method, Method)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def spec_of(method: Method, task: str, quick: bool = False) -> JobSpec:
    files = files_of(TASKS[task], Path(), quick)
    return parse_toml(to_toml(job_of(method, files, 1, "curve.csv", quick)), JobSpec, method.name)


@pytest.mark.parametrize("method", SIMULATED, ids=lambda method: method.name)
def test_a_method_is_a_valid_job_on_all_its_tasks(method: Method) -> None:
    for place in method.where:
        spec = spec_of(method, place.split("/")[0])
        assert spec.rounds.min_devices <= TASKS[place.split("/")[0]].devices
    quick = spec_of(method, "bbc_news", quick=True)
    assert quick.rounds.count <= 3
    assert quick.rounds.max_devices == 10
    assert all(block.first_round <= 3 for block in quick.blocks.values())


def test_a_headline_method_is_its_preset() -> None:
    for name in ("default", "layer-means-4096", "mezo", "fwdllm-paper"):
        method = METHODS[name]
        assert isinstance(method, Method)
        job = job_of(method, files_of(TASKS["ag_news"], Path()), 1, "curve.csv")
        preset = with_preset({"preset": name})
        assert with_preset(job) == preset | {
            "preset": name,
            "job": {"name": name, "seed": 1},
            "held_out": {"file": "curve.csv", "validation": 0.0},
            "model": {**preset["model"], **job["model"]},
        }


def test_changes_are_made_and_none_removes() -> None:
    files = files_of(TASKS["ag_news"], Path())
    method = Method(
        "changed", "upper-layers", {"blocks.peft": None, "optimizer.beta1": 0.5}, on={"ag_news": {"job.seed": 9}}
    )
    job = job_of(method, files, 1, "curve.csv", more={"rounds.count": 7})
    assert job["blocks"].keys() == {"head"}
    assert (job["optimizer"]["beta1"], job["job"]["seed"], job["rounds"]["count"]) == (0.5, 9, 7)


def test_toml_gives_back_the_tables() -> None:
    tables = {"preset": "default", "a": {"text": 'ä "b"\n', "yes": True, "list": [1, -2], "b": {"inf": float("inf")}}}
    assert tomllib.loads(to_toml(tables)) == tables


def test_a_recipe_does_not_depend_on_where_files_are() -> None:
    method = METHODS["default"]
    assert isinstance(method, Method)
    files = files_of(TASKS["ag_news"], Path())
    first, second = (job_of(method, files, 1, held_out) for held_out in ("a.csv", "b.csv"))
    second["model"]["source"] = "elsewhere"
    assert recipe_of(first) == recipe_of(second)
    assert recipe_of(first) != recipe_of(job_of(method, files, 2, "a.csv"))


def test_references_take_their_settings() -> None:
    for method in METHODS.values():
        if isinstance(method, Reference):
            assert settings_of(method.kind, method.settings, quick=True)


def test_runs_are_named_once_and_found_by_their_parts(settings: Settings) -> None:
    runs = all_runs((), quick=False)
    assert len({run.parts for run in runs}) == len(runs)
    assert [run.parts for run in all_runs(["ag_news/default/iid/2"], quick=False)] == [
        ("ag_news", "default", "iid", "2")
    ]
    assert len(all_runs(["ag_news/default"], quick=False)) == 9
    assert len(all_runs(["ag_news/fwdllm-paper"], quick=False)) == 1
    with pytest.raises(ValueError, match="no run is called"):
        all_runs(["ag_news/no-such"], quick=False)
    assert missing_data(runs, None) == ["ag_news", "yelp_sentences", "twitter_airline", "clinc150", "sms_spam"]
    assert settings.command(runs[0]).startswith("make bench-convergence")


def test_a_quick_run_has_every_method() -> None:
    runs = all_runs((), quick=True)
    assert {run.method.name for run in runs} == set(METHODS)
    assert {run.task.name for run in runs} == {"bbc_news"}


def test_tuning_is_kept_apart(tmp_path: Path) -> None:
    run = all_runs(["ag_news/default/iid/1"], quick=False)[0]
    tuning = Settings(tmp_path, tuning=True, changes={"rounds.count": 5})
    assert tuning.folder(run) == tmp_path / "tuning" / "ag_news.default.iid.1+rounds.count=5"
    files = files_of(TASKS["ag_news"], tmp_path)
    assert tuning.job(run, files)["held_out"]["file"] == "validation.csv"
    assert tuning.job(run, files)["rounds"]["count"] == 5


def test_a_seed_draws_its_own_population() -> None:
    files = files_of(TASKS["ag_news"], Path())
    method = METHODS["default"]
    first, second = (population_of(Run(TASKS["ag_news"], method, "dirichlet-0.1", seed), files) for seed in (1, 2))
    assert (first.partition, first.alpha, first.devices) == ("dirichlet", 0.1, 100)
    assert first.seed != second.seed
