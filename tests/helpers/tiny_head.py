"""A tiny job whose head is made from class means, with devices whose sums are written by hand."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from helpers.rig import JOB, Rig, add_devices
from helpers.tiny_job import job_spec, job_toml

from fwdllm.v1 import device_pb2
from fwdllm_common.layout import Layout, TensorSpec
from fwdllm_common.manifest import BundleFile, Manifest, Stage
from fwdllm_common.protocol import FEATURE_SUMS
from fwdllm_common.replay import ModelState
from fwdllm_server.preparation.adoption import PreparedModel, save_prepared
from fwdllm_server.preparation.run_header import run_header
from fwdllm_server.rounds import feature_reporting
from fwdllm_server.rounds.delivery import fetch
from fwdllm_server.rounds.presence import Present
from fwdllm_server.store import assignments, jobs
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import Database

LABELS = ("arts", "law", "sport")
WIDTH = 4
HEAD = (TensorSpec("classifier.weight", (len(LABELS), WIDTH), "head"), TensorSpec("classifier.bias", (3,), "head"))
PEFT = TensorSpec("lora_B", (4, 2), "peft")


def manifest_of(*head: TensorSpec, per_token: bool = False, width: int = WIDTH) -> Manifest:
    """A model with this head on features that are so wide."""
    file = BundleFile("file", "0" * 64, 4)
    layout = Layout((PEFT, *(head or HEAD)))
    stages = (
        Stage(None, file, None, ("input_ids",), True, 4, 16),
        Stage("peft", file, None, ("activation", "theta"), per_token, width, 8),
        Stage("head", file, None, ("activation", "theta", "labels"), False, len(LABELS), 12),
    )
    return Manifest(LABELS, 16, 0, file, layout, stages)


def sums_of(device: str) -> list[device_pb2.ClassSum]:
    """What a device sends: two of the three classes or more, rows and features decided by its name."""
    draw = np.random.default_rng(list(device.encode()))
    rows = draw.integers(8, 17, len(LABELS))
    features = draw.normal(np.eye(len(LABELS), WIDTH), 0.3)
    return [
        device_pb2.ClassSum(label=label, rows=int(rows[label]), features=features[label] * rows[label])
        for label in range(len(LABELS))
    ]


class HeadlessRig(Rig):
    """A rig whose devices allow feature sums."""

    @classmethod
    def headless(cls, folder: Path, devices: Iterable[str], **rounds: Any) -> "HeadlessRig":
        sections = {"model": {"labels": list(LABELS), "head": "class-means"}, "rounds": rounds}
        database = Database(f"sqlite:///{folder / 'fwdllm.db'}")
        artifacts = ArtifactStore(folder / "artifacts")
        spec, manifest = job_spec(sections), manifest_of()
        theta = np.linspace(-1, 1, manifest.layout.size, dtype=np.float32)
        header = run_header(spec, manifest.layout, theta)
        state = ModelState.initial(header, manifest.layout, theta)
        with database.transaction() as connection:
            jobs.add(connection, JOB, spec, job_toml(sections), "/", 0.0)
            prepared = PreparedModel(
                header, artifacts.put(manifest.to_bytes()), state, "class-means", head_uninitialised=True
            )
            save_prepared(connection, artifacts, JOB, prepared)
        add_devices(database, devices)
        return cls(database, artifacts)

    def reborn(self) -> "HeadlessRig":
        """The coordinator that goes on from this one's disk; the devices have not checked in with it."""
        return type(self)(self.database, self.artifacts, self.now)

    def here(self, *devices: str, allowed: bool = True) -> None:
        """The devices check in and find nothing to do."""
        for device in devices:
            may = frozenset({FEATURE_SUMS} if allowed else ())
            self.presence.seen(Present(device, self.now, frozenset(LABELS), may))

    def fetch(self, device: str) -> device_pb2.Assignment | None:
        """What the device gets at a check-in."""
        with self.database.transaction() as connection:
            work = [found for found in assignments.counting_of_device(connection, device) if found.open]
            return fetch(connection, work[0], self.job, self.now) if work else None

    def send(
        self, device: str, assignment_id: str, sums: Iterable[device_pb2.ClassSum] | None = None, last: bool = True
    ) -> device_pb2.FeatureSumsResponse:
        """The device sends one message of sums, its own if none are given."""
        request = device_pb2.FeatureSumsRequest(
            assignment_id=assignment_id, sums=sums_of(device) if sums is None else sums, last=last
        )
        with self.database.transaction() as connection:
            assignment = assignments.get(connection, assignment_id)
            assert assignment is not None
            return feature_reporting.record(connection, assignment, request, self.job.manifest)
