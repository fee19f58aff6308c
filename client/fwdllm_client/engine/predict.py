"""What the model says of each row."""

from __future__ import annotations

from collections.abc import Sequence

from fwdllm_client.data.split import RowIndices
from fwdllm_client.engine.base_pass import Rows
from fwdllm_client.engine.evaluate import scored
from fwdllm_client.engine.stages import Float32
from fwdllm_client.tasks import task_named
from fwdllm_client.tasks.task import Prediction


def predict(shared: Rows, theta: Float32, rows: RowIndices) -> Sequence[Prediction]:
    """Predict ``rows`` at ``theta``, float32 ``[d]``, in their order."""
    manifest = shared.chain.manifest
    task = task_named(manifest.task)
    found: dict[int, Prediction] = {}
    for group_rows, _, logits in scored(shared, theta, rows):
        said = task.predictions(shared.dataset, group_rows, logits, manifest.labels)
        found.update(zip(group_rows.tolist(), said, strict=True))
    return [found[row] for row in rows.tolist()]
