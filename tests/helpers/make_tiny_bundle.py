"""Make the tiny model of the device's package (``make tiny-bundle``) with today's export and ONNX Runtime.

Run it when the export has changed; ``tests/client/test_doctor.py`` says so. It is a tool, not a part of any test.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from helpers.tiny_job import job_spec
from helpers.tiny_text import LABELS, save_tiny_model

from fwdllm_client.engine.tiny_bundle import BUNDLE_FOLDER
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.preparation.model_export import export_model


def main() -> None:
    """Write the bundle over the one in the package."""
    with tempfile.TemporaryDirectory() as scratch:
        model = save_tiny_model(Path(scratch) / "model")
        spec = job_spec(
            {
                "model": {"source": str(model), "labels": list(LABELS), "max_tokens": 16, "pooling": "mean"},
                "peft": {"method": "lora-fa", "rank": 4, "targets": ["query", "key"], "layers": [-1]},
            }
        )
        folder = JobFolder(Path(scratch) / "job")
        export_model(spec, str(model), folder)
        shutil.rmtree(BUNDLE_FOLDER)
        shutil.copytree(folder.bundle, BUNDLE_FOLDER)


if __name__ == "__main__":
    main()
