"""The folder of a job: where its exported model is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STEP_FILE = "step"


@dataclass(frozen=True)
class JobFolder:
    """The paths of a job's model: the bundle for devices, the adapter template, and what a run starts from."""

    path: Path

    @property
    def bundle(self) -> Path:
        """The folder of the manifest and of the files that it names."""
        return self.path / "bundle"

    @property
    def adapter(self) -> Path:
        """The folder of the adapter template: the adapter at version 0."""
        return self.path / "adapter"

    @property
    def initial_theta(self) -> Path:
        """The file of the exported θ, float32 ``[d]``; the export writes it last."""
        return self.path / "initial_theta.npy"

    @property
    def head_init(self) -> Path:
        """The file that names how the head is initialised."""
        return self.path / "head_init"

    @property
    def exported(self) -> bool:
        """Whether an export into this folder is complete."""
        return self.initial_theta.exists()

    @property
    def step(self) -> str:
        """The step that an export into this folder is at; empty before the first."""
        try:
            return (self.path / _STEP_FILE).read_text(encoding="utf-8")
        except OSError:
            return ""

    def begin(self, step: str) -> None:
        """Record the step that an export into this folder begins."""
        (self.path / _STEP_FILE).write_text(step, encoding="utf-8")
