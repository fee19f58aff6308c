"""The models that this device holds, to be used without the coordinator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from fwdllm.v1 import device_pb2, ledger_pb2
from fwdllm_common.errors import BadInputError, IntegrityError
from fwdllm_common.files import make_folder, sha256_of, write_atomically
from fwdllm_common.layout import Float32Vector
from fwdllm_common.manifest import Manifest


@dataclass(frozen=True)
class HeldModel:
    """The newest committed version of a job's model that is here whole: θ is float32 ``[d]``."""

    job: str
    job_id: str
    version: int
    theta: Float32Vector
    folder: Path
    manifest: Manifest


def note_job(weights: Path, assignment: device_pb2.Assignment) -> None:
    """Write beside the file of a job's weights whose they are, and of which model.

    :raises StorageError: the disk is full.
    """
    note = {
        "job": "".join(character if character.isprintable() else "?" for character in assignment.job_name),
        "job_id": assignment.job_id,
        "manifest_sha256": assignment.manifest_sha256.hex(),
    }
    write_atomically(_note_of(weights), json.dumps(note).encode())


def held_model(cache: Path, job: str | None = None) -> HeldModel:
    """Return the model in the agent's ``cache`` that was trained last, or that of the ``job`` (its name or its id).

    :raises BadInputError: there is none, or what is here of it is damaged.
    :raises IntegrityError: a file of it has another hash than the coordinator announced.
    """
    held = list(_held(cache))
    for weights, note in held:
        if job in (None, note["job"], note["job_id"]):
            return _loaded(cache, weights, note)
    if not held:
        raise BadInputError(f"{cache} holds no trained model yet; run the agent until it has worked on a job")
    names = ", ".join(dict.fromkeys(note["job"] for _, note in held))
    raise BadInputError(f"this device holds no model of a job {job!r}; there are {names}")


def save_personal(folder: Path, model: HeldModel, theta: Float32Vector) -> None:
    """Keep ``theta``, float32 ``[d]``, as this device's own weights for the job of ``model``, in place of older ones.

    :raises StorageError: the disk is full.
    """
    make_folder(folder)
    weights = np.ascontiguousarray(theta, dtype="<f4").tobytes()
    snapshot = ledger_pb2.Snapshot(version=model.version, theta=weights).SerializeToString(deterministic=True)
    # One file, so that a crash leaves the old weights or the new ones.
    model_sha256 = bytes.fromhex(model.folder.name)
    write_atomically(_personal_file(folder, model), model_sha256 + hashlib.sha256(snapshot).digest() + snapshot)


def personal_model(folder: Path, model: HeldModel) -> HeldModel:
    """Return ``model`` with this device's own weights; ``version`` is the global one from which they come.

    :raises BadInputError: there are none, they belong to another model, or their file is damaged.
    """
    again = "run: fwdllm-client personalise --data FILE"
    try:
        data = _personal_file(folder, model).read_bytes()
    except FileNotFoundError as error:
        raise BadInputError(f"this device has no weights of its own for job {model.job!r}; {again}") from error
    except OSError as error:
        raise BadInputError(f"{_personal_file(folder, model)} cannot be read ({error}); {again}") from error
    if data[:32].hex() != model.folder.name:
        raise BadInputError(f"this device's own weights belong to an earlier model of job {model.job!r}; {again}")
    if hashlib.sha256(data[64:]).digest() != data[32:64]:
        raise BadInputError(f"{_personal_file(folder, model)} is damaged; {again}")
    snapshot = ledger_pb2.Snapshot.FromString(data[64:])
    theta = np.frombuffer(snapshot.theta, dtype="<f4").astype(np.float32)
    return replace(model, version=snapshot.version, theta=theta)


def _personal_file(folder: Path, model: HeldModel) -> Path:
    return folder / f"{hashlib.sha256(model.job_id.encode()).hexdigest()}.weights"


def _held(cache: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the weights whose model is here too, the newest first, and what is known of them."""
    files: Sequence[Path] = sorted(
        (cache / "weights").glob("*.weights"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for weights in files:
        try:
            value = json.loads(_note_of(weights).read_bytes())
            note = {key: str(value[key]) for key in ("job", "job_id", "manifest_sha256")}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of an older version, or damaged
        if (cache / "bundles" / Path(note["manifest_sha256"]).name).is_dir():
            yield weights, note


def _loaded(cache: Path, weights: Path, note: dict[str, str]) -> HeldModel:
    sha256 = Path(note["manifest_sha256"]).name
    folder = cache / "bundles" / sha256
    try:
        manifest = Manifest.from_bytes((cache / "files" / sha256).read_bytes())
        snapshot = ledger_pb2.Snapshot.FromString(weights.read_bytes())
        wrong = [file.name for file in manifest.files if sha256_of(folder / file.name) != file.sha256]
    except (OSError, DecodeError) as error:
        raise BadInputError(
            f"what this device holds of job {note['job']!r} is damaged ({error}); the agent fetches it again when it "
            "works on the job"
        ) from error
    if wrong or sha256_of(cache / "files" / sha256) != sha256:
        raise IntegrityError(
            f"{folder}: {(wrong or ['the manifest'])[0]} has changed since it was downloaded; check this device's disk"
        )
    theta = np.frombuffer(snapshot.theta, dtype="<f4").astype(np.float32)
    return HeldModel(note["job"], note["job_id"], snapshot.version, theta, folder, manifest)


def _note_of(weights: Path) -> Path:
    return weights.with_suffix(".json")
