"""``fwdllm-client personalise``: make the model that this device holds its own, by its rows, without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fwdllm_client.cache.held import held_model, save_personal
from fwdllm_client.connection.home import ClientHome
from fwdllm_client.data import Dataset, Source
from fwdllm_client.data.split import split
from fwdllm_client.engine import Engine
from fwdllm_client.engine.audit import audit
from fwdllm_client.engine.personalise import Personalisation
from fwdllm_client.engine.personalise import personalise as rounds_of
from fwdllm_common.errors import BadInputError

_CACHE_BYTES = 1 << 30


def personalise(
    home: ClientHome,
    job: str | None,
    source: Source,
    validation_fraction: float,
    settings: Personalisation,
    show: Callable[[int], None],
    threads: int = 0,
) -> dict[str, Any]:
    """Train the newest model that the device holds, or the newest of ``job``, on the rows of ``source``.

    The new weights are kept apart from those of the job, unless these are better on the validation rows.
    ``show`` is called with the number of rounds done.

    :raises BadInputError: the device holds no such model, the file is wrong, there are no training rows, or the
        learning rate is too high.
    :raises IntegrityError: the model's files have changed.
    :raises NotAllowedError: a graph is not what a device runs.
    :raises StorageError: the disk is full.
    """
    model = held_model(home.cache, job)
    audit(model.folder, model.manifest)
    dataset = Dataset.load(source, model.folder / model.manifest.tokenizer.name, model.manifest)
    training, validation = split(len(dataset), validation_fraction)
    training = training[dataset.learnable(training)]
    if len(training) == 0:
        raise BadInputError(f"{source.path} has no row to learn from; lower --validation-fraction or add rows")
    with (
        tempfile.TemporaryDirectory() as scratch,
        Engine(model.folder, model.manifest, dataset, Path(scratch), threads, _CACHE_BYTES) as engine,
    ):
        before = engine.evaluate(model.theta, validation) if len(validation) else None
        theta = model.theta
        for done, moved in enumerate(rounds_of(engine, model.manifest.layout, theta, training, settings), start=1):
            theta = moved
            show(done)
        after = engine.evaluate(theta, validation) if len(validation) else None
    kept = before is None or after is None or (after.score, -after.loss) >= (before.score, -before.loss)
    if kept:
        save_personal(home.personal, model, theta)
    return {
        "job": model.job,
        "job_id": model.job_id,
        "version": model.version,
        "rounds": settings.rounds,
        "training_rows": len(training),
        "validation_rows": len(validation),
        "global_score": before and before.score,
        "personal_score": after and after.score,
        "kept": kept,
    }


def line(found: dict[str, Any]) -> str:
    """Return the result in words."""
    rows = f"{found['training_rows']} rows, {found['rounds']} rounds from version {found['version']} of {found['job']}"
    scores = (
        f"{found['global_score']:.1%} of {found['validation_rows']} validation rows before, "
        f"{found['personal_score']:.1%} after"
        if found["validation_rows"]
        else "no validation rows"
    )
    kept = "use it with: fwdllm-client predict --personal" if found["kept"] else "not better, so not kept"
    return f"{rows}; {scores}; {kept}"
