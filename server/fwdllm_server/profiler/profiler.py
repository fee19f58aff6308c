"""Profile a job: check the candidates, measure them one by one, and report after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.peft_spec import PeftSpec
from fwdllm_server.profiler.candidate_model import ModelMaker
from fwdllm_server.profiler.candidates import default_candidates, name_of
from fwdllm_server.profiler.environment import environment
from fwdllm_server.profiler.measurement import Bench, Measurement
from fwdllm_server.profiler.public_rows import PublicRows
from fwdllm_server.profiler.report import Report, Settings, make_report
from fwdllm_server.tasks import task_named


@dataclass(frozen=True)
class Amount:
    """The amount of measurement: each candidate is trained for so many ``epochs`` on so many ``rows``.

    ``seed`` determines rows, their order and initial PEFT weights. ``threads`` of 0 means one per core.
    """

    rows: int
    epochs: int
    seed: int
    threads: int = 0


class Profiler:
    """Profiles candidates for the job ``spec``. All are checked before any is measured.

    :param base_folder: the folder of relative paths in ``spec``.
    :param candidates: by default, the default candidates that fit the model.
    :raises BadInputError: the rows, the model or a candidate is invalid.
    """

    def __init__(
        self, spec: JobSpec, base_folder: Path, amount: Amount, candidates: Sequence[PeftSpec] | None = None
    ) -> None:
        rows = PublicRows.draw(spec, base_folder, amount.rows, amount.seed)
        maker = ModelMaker(spec, spec.model.resolved_source(base_folder), amount.seed, rows.texts)
        self._by_default = candidates is None
        self._left_out: dict[str, str] = {}
        self._candidates = self._fitting(maker, default_candidates() if candidates is None else candidates)
        self._bench = Bench(spec, maker, rows, amount.epochs, amount.seed, amount.threads)
        self._settings = Settings(
            job=spec.job.name,
            model=spec.model.source,
            metric=task_named(spec.model.task).metrics[0],
            rows=len(rows.training),
            validation_rows=len(rows.validation),
            epochs=amount.epochs,
            seed=amount.seed,
            threads=amount.threads,
        )

    @property
    def candidates(self) -> Sequence[PeftSpec]:
        """The candidates to measure."""
        return self._candidates

    def run(self, begin: Callable[[str], None], tick: Callable[[], None]) -> Iterator[Report]:
        """Yield a report on all candidates so far after each candidate.

        :param begin: called with the name of each candidate before it is measured.
        :param tick: called after each epoch, the start counting as one.
        :raises BadInputError: a given candidate cannot be measured, or no default one can.
        """
        measurements: list[Measurement] = []
        for candidate in self._candidates:
            begin(name_of(candidate))
            try:
                measurements.append(self._bench.measure(candidate, tick))
            except BadInputError as error:
                self._leave_out(candidate, error)
            if measurements:
                yield make_report(measurements, self._settings, environment(), self._left_out)
        if not measurements:
            raise self._none_fits()

    def _fitting(self, maker: ModelMaker, candidates: Sequence[PeftSpec]) -> Sequence[PeftSpec]:
        fitting = []
        for candidate in candidates:
            try:
                maker.check(candidate)
            except BadInputError as error:
                self._leave_out(candidate, error)
            else:
                fitting.append(candidate)
        if not fitting:
            raise self._none_fits()
        return fitting

    def _leave_out(self, candidate: PeftSpec, error: BadInputError) -> None:
        """Leave out a default candidate. Raise the error of one that the user has named."""
        if not self._by_default:
            raise BadInputError(f"candidate {name_of(candidate)!r}: {error}") from error
        self._left_out[name_of(candidate)] = str(error)

    def _none_fits(self) -> BadInputError:
        return BadInputError(f"no candidate fits the model: {'; '.join(self._left_out.values())}")
