"""kill -9 of the coordinator at every point of a run: not a bit of the ledger and of θ changes (DESIGN §2).

One run meets every point: each life ends at the first one that no life has ended at (:mod:`chaos.mortal`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chaos import mortal
from chaos.crew import SECTIONS, Crew, operator
from chaos.writers import writing_lines
from helpers.federation import Federation
from helpers.tiny_head import manifest_of
from helpers.tiny_job import job_spec, job_toml
from helpers.tiny_text import LABELS, save_tiny_model, write_rows

from fwdllm.v1.operator_pb2 import ListJobsRequest
from fwdllm_common.replay import ModelState
from fwdllm_server.config.home import ServerHome
from fwdllm_server.preparation.adoption import PreparedModel, save_prepared
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.store import job_devices, jobs, ledger
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database
from fwdllm_server.store.ledger import EvaluationRecord

KINDS = ["sqlite", "postgresql"]
ELSEWHERE = {
    "ledger.add_evaluation(connection, self._job.id, record)": "e2e/test_kill_coordinator.py: there is no model here",
    "jobs.set_state(connection, job.id, JobState.FAILED, message, context.now)": "the end of a job without an end",
    "assignments.set_state(context.connection, offer.id, AssignmentState.EXPIRED)": "takes a third device",
    "assignments.set_state(connection, assignment.id, AssignmentState.EXPIRED)": "a device whose sums are no numbers",
    "rounds.set_reason(context.connection, context.round, reason)": "words for people",
    "rounds.set_plan(context.connection, context.round, ())": "gives up a plan: server/rounds/test_selecting.py",
    'rounds.set_reason(context.connection, context.round, "paused by an operator")': "words for people",
    'rounds.set_reason(context.connection, context.round, f"waiting for more devices: {len(idle)} are here")': "too",
}
"""Lines that the crew's run does not come to, and why it need not."""
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Run:
    """What is left of a run."""

    ledger: list[bytes]
    theta_digest: bytes
    header: bytes
    scalars: int


def run(
    folder: Path, url: str, deaths: int, make: Callable[[ServerHome], None], act: Callable[[Crew], object]
) -> list[str]:
    """Let the crew act under a coordinator that dies so often at each point; returns the points, in order."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    (notes / "clock").write_text("0")
    with Federation(folder) as federation, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FWDLLM_LIMITS__CALLS_PER_S", "1000000")
        if url:
            patch.setenv("FWDLLM_STORE__URL", url)
        federation.command("fwdllm-server", "init", str(federation.server_folder), "--host", "localhost")
        home = ServerHome.open(federation.server_folder)
        make(home)
        script = Path(mortal.__file__)
        federation.start("server", Path(sys.executable), script, home.folder, notes, str(deaths))
        with operator(home) as service:
            act(Crew(service, folder, notes / "clock"))
        federation.kill("server")
        return (notes / "points").read_text().splitlines()


def remains(home: ServerHome, url: str) -> Run:
    database = Database(url or f"sqlite:///{home.database}")
    with database.transaction() as connection:
        (record,) = jobs.in_state(connection)
        left = Run(
            ledger=list(ledger.entries(connection, record.id, after=0)),
            theta_digest=TrainingJob.load(connection, ArtifactStore(home.artifacts), record).state.digest,
            header=record.header or b"",
            scalars=sum(row.scalars for row in job_devices.of_job(connection, record.id)),
        )
    database.close()
    return left


def add_headless(home: ServerHome) -> None:
    """A job whose head is still to be made, as its preparation leaves it; without a model, nothing is evaluated."""
    spec, manifest = job_spec(SECTIONS), manifest_of()
    theta = np.linspace(-1, 1, manifest.layout.size, dtype=np.float32)
    header = run_header(spec, manifest.layout, theta)
    state = ModelState.initial(header, manifest.layout, theta)
    artifacts, database = ArtifactStore(home.artifacts), Database(home.database_url(home.config()))
    with database.transaction() as connection:
        jobs.add(connection, "job1", spec, job_toml(SECTIONS), "/", 0.0)
        prepared = PreparedModel(
            header, artifacts.put(manifest.to_bytes()), state, "class-means", head_uninitialised=True
        )
        save_prepared(connection, artifacts, "job1", prepared)
        for version in (0, spec.rounds.count):
            ledger.add_evaluation(connection, "job1", EvaluationRecord(version, 0.5, 0.7, 10))
    database.close()


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """Of an empty database; "" for the one in the server's directory."""
    return request.getfixturevalue("postgres").create_database() if kind == "postgresql" else ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    points = run(folder, "", 0, add_headless, Crew.train)
    return remains(ServerHome.open(folder / "server"), ""), points


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_rounds(kind, url, undisturbed, tmp_path):
    expected, points = undisturbed
    died_at = run(tmp_path / "run", url, 1, add_headless, Crew.train)

    assert remains(ServerHome.open(tmp_path / "run" / "server"), url) == expected
    # PostgreSQL has no file that one coordinator keeps to itself.
    assert {point for point in points if kind == "sqlite" or "store/exclusive.py" not in point} <= set(died_at)
    forgotten = {
        f"{place} {text}"
        for place, text in writing_lines().items()
        for when in ("before", "after")
        if f"{when} the commit of {place}" not in died_at and text not in ELSEWHERE
    }
    assert not forgotten, "the crew's run does not come here: extend it"


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_migrations(kind, url, tmp_path):
    def look(crew: Crew) -> None:
        crew.insist(crew.operator.ListJobs, ListJobsRequest())

    died_at = run(tmp_path / "run", url, 1, lambda home: None, look)
    folder = Path(mortal.__file__).parents[2] / "server/fwdllm_server/store/migrations/versions"
    assert all(any(migration.name in point for point in died_at) for migration in folder.glob("0*.py"))


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_preparation(kind, url, tmp_path):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "held_out.csv", 30, seed=0)
    model = {"source": "model", "labels": list(LABELS), "max_tokens": 16, "pooling": "mean"}
    sections = {"model": model, "peft": {"rank": 2, "layers": [-1]}, "held_out": {"file": "held_out.csv"}}

    def prepare(crew: Crew) -> None:
        crew.prepare(job_toml(sections), tmp_path)

    run(tmp_path / "calm", "", 0, lambda home: None, prepare)
    run(tmp_path / "run", url, 1, lambda home: None, prepare)
    left = remains(ServerHome.open(tmp_path / "run" / "server"), url)
    assert left == remains(ServerHome.open(tmp_path / "calm" / "server"), "")
    assert left.header
    assert [path.name for path in (tmp_path / "run/server/jobs").iterdir() if path.suffix == ".partial"] == []
