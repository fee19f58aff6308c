"""A simulation that has ended: its curve, its model, and what can be made of it."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fwdllm_client.tasks import RowOptions
from fwdllm_common.files import check_new
from fwdllm_server.api.model import Model
from fwdllm_server.api.quiet import quiet
from fwdllm_server.evaluation.trained import TrainedModel
from fwdllm_server.model.adapter import ExportFormat, export_format
from fwdllm_server.preparation.job_folder import JobFolder
from fwdllm_server.rounds.training import TrainingJob
from fwdllm_server.simulation.curve import Point
from fwdllm_server.simulation.export import export_model_of
from fwdllm_server.simulation.simulation import Outcome, Simulation
from fwdllm_server.simulation.store import DATABASE, JOB_ID
from fwdllm_server.store import jobs
from fwdllm_server.store.artifacts import ArtifactStore
from fwdllm_server.store.database import reading
from fwdllm_server.views.versions import chosen_version

if TYPE_CHECKING:
    import pandas

_COMMAND = "fwdllm.simulate(model=…, train=…, held_out=…)"


class Run:
    """The result of :func:`fwdllm.simulate`.

    Its files are in ``folder``; those of a folder of its own are deleted when nothing refers to the run or its models.
    """

    def __init__(
        self, simulation: Simulation, folder: Path, options: RowOptions, threads: int, is_temporary: bool
    ) -> None:
        self.folder = folder
        self._points = list(simulation.points)
        self._outcome = simulation.outcome
        self._manifest = simulation.manifest
        self._options = options
        self._threads = threads
        if is_temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @property
    def points(self) -> Sequence[Point]:
        """The learning curve: a point for each evaluated version, the first before the training."""
        return self._points

    @property
    def curve(self) -> pandas.DataFrame | list[dict[str, Any]]:
        """The learning curve, a row for each point: a DataFrame if pandas is installed, else a list of dicts.

        The columns are ``version``, ``accuracy`` (of questions the mean F1), ``loss`` (nats), ``directions``,
        ``example_passes``, ``device_seconds`` and ``seconds`` (simulated), ``bytes_up`` and ``bytes_down`` (without the
        model's files), and ``exact_match``, the metric beside, which classification does not have; ``metric`` and
        ``metric_beside`` name them.
        """
        rows = [asdict(point) for point in self._points]
        try:
            import pandas
        except ImportError:
            return rows
        return pandas.DataFrame(rows)

    @property
    def outcome(self) -> Outcome:
        """Counts of rounds and scalars, and the SHA-256 of the last θ."""
        return self._outcome

    @property
    def model(self) -> Model:
        """The model that :meth:`export` writes: the best on the validation rows, or the last if there are none."""
        return self.model_at()

    def model_at(self, version: int | Literal["best"] | None = None) -> Model:
        """Return the model at a version, or the best on the held-out rows.

        :raises BadInputError: there is no such version.
        """
        with reading(self._url) as connection:
            state = self._training(connection, version).state
        bundle = JobFolder(self._place / "model").bundle
        trained = TrainedModel(bundle, self._manifest, state.theta, state.version, self._threads)
        return Model(trained, self._options, self)

    def export(
        self,
        out: str | Path,
        format: ExportFormat = "peft",  # noqa: A002 - the name of the command's option
        version: int | Literal["best"] | None = None,
    ) -> Path:
        """Write the model with its tokenizer and a card into a new folder and return that.

        ``peft`` is PEFT's adapter with its base model, ``transformers`` one merged model, ``onnx`` one graph.

        :raises BadInputError: the folder is not empty, or there is no such format or version.
        :raises StorageError: the folder cannot be written.
        """
        folder = Path(out)
        check_new(folder)
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        kind = export_format(format)
        with quiet(), reading(self._url) as connection:
            training = self._training(connection, version)
            record = jobs.required(connection, JOB_ID)
            model = JobFolder(self._place / "model")
            export_model_of(connection, record, model, training.manifest.layout, training.state, folder, _COMMAND, kind)
        return folder

    def __repr__(self) -> str:
        last = self._points[-1]
        return f"Run({last.version} rounds, {last.metric} {last.accuracy:.1%}, {str(self.folder)!r})"

    @property
    def _place(self) -> Path:
        return self.folder / "simulation"

    @property
    def _url(self) -> str:
        return f"sqlite:///{(self._place / DATABASE).absolute()}"

    def _training(self, connection: Any, version: int | Literal["best"] | None) -> TrainingJob:
        record = jobs.required(connection, JOB_ID)
        artifacts = ArtifactStore(self._place / "artifacts")
        return TrainingJob.load(connection, artifacts, record, chosen_version(connection, record, version))
